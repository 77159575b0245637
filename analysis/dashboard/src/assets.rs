//! The site's own files, and the chart library that it ships.

/// Name in the site, and content.
pub(crate) const ASSETS: [(&str, &str); 13] = [
    ("index.html", include_str!("../assets/index.html")),
    ("assets/style.css", include_str!("../assets/style.css")),
    ("assets/core.js", include_str!("../assets/core.js")),
    ("assets/chart.js", include_str!("../assets/chart.js")),
    ("assets/overview.js", include_str!("../assets/overview.js")),
    ("assets/metric.js", include_str!("../assets/metric.js")),
    ("assets/runs.js", include_str!("../assets/runs.js")),
    ("assets/run.js", include_str!("../assets/run.js")),
    ("assets/compare.js", include_str!("../assets/compare.js")),
    ("assets/main.js", include_str!("../assets/main.js")),
    ("assets/uplot/uPlot.iife.min.js", include_str!("../assets/uplot/uPlot.iife.min.js")),
    ("assets/uplot/uPlot.min.css", include_str!("../assets/uplot/uPlot.min.css")),
    ("assets/uplot/LICENSE", include_str!("../assets/uplot/LICENSE")),
];
