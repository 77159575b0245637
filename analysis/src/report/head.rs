//! What the page begins with: what ran, and whether to its end.

use iommu_results::Run;

use super::page::{Page, escape};
use crate::view;

pub(super) fn head(page: &mut Page, run: &Run) {
    page.raw(&format!("<h1>{} on {}</h1>", escape(&run.scenario), run.machine));
    let started = run.started_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    page.raw(&format!(
        "<p class=\"meta\">{} · seed {} · <code>{}</code></p>",
        escape(&started),
        run.seed,
        escape(&run.run_id)
    ));
    let common: Vec<String> =
        view::common_params(run).iter().map(|(key, value)| view::param(key, value)).collect();
    if !common.is_empty() {
        page.raw(&format!("<p class=\"meta\">In every case: {}</p>", escape(&common.join(" · "))));
    }
    if run.partial {
        page.raw(
            "<p class=\"alert\"><strong>Partial run.</strong> It ended early; every figure covers only what was \
             measured until then.</p>",
        );
    }
}
