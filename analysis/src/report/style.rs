//! The page's style sheet; the inks of the plots come from [`crate::plot::THEME`].

pub(super) const CSS: &str = r#":root{--page:#f6f7f9;--card:#ffffff;--edge:#e1e5ea;--accent:#2a5bd7;--warn:#fff6e5;--warn-edge:#d89614}
@media (prefers-color-scheme: dark){:root{--page:#14171b;--card:#1c2026;--edge:#323942;--accent:#82aaff;--warn:#2b2416;--warn-edge:#b07d1f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:56rem;margin:0 auto;padding:2rem 1rem 1rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .35rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:0 0 .6rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.5rem 0}
a{color:var(--accent)}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.meta,.note,footer{color:var(--muted)}
.meta{margin:0 0 .25rem}
.note{font-size:.9rem;max-width:46rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:.9rem;margin:.4rem 0 1.1rem}
.card{border:1px solid var(--edge);border-radius:8px;padding:.8rem 1rem;background:var(--page)}
.card p{margin:0}
.card .what{font-size:.88rem;color:var(--muted)}
.card .pair{font-weight:600}
.card dl{display:flex;flex-wrap:wrap;gap:.3rem 1.8rem;margin:.35rem 0 0}
.card dt{font-size:.85rem;color:var(--muted)}
.card dd{margin:0;font-size:1.7rem;line-height:1.25;font-weight:650;font-variant-numeric:tabular-nums}
.card dd small{font-size:.85rem;font-weight:400;color:var(--muted);margin-left:.5rem}
nav{margin:1rem 0 1.2rem;font-size:.92rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
nav a{text-decoration:none}
nav a:hover,nav a:focus{text-decoration:underline}
section{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:1.2rem 1.3rem;margin:0 0 1.1rem}
.scroll{overflow-x:auto}
figure{margin:.6rem 0 .2rem}
.flame svg{display:block;width:100%;min-width:640px;height:auto;font-family:system-ui,sans-serif;font-size:12px}
.plot{display:block;width:100%;min-width:600px;max-width:780px;height:auto}
.plot text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums}
table{border-collapse:collapse;font-size:.93rem;margin:.4rem 0;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:.38rem .7rem .38rem 0;text-align:left;border-bottom:1px solid var(--edge);vertical-align:baseline}
th:last-child,td:last-child{padding-right:0}
tbody tr:last-child>*{border-bottom:0}
thead th{color:var(--muted);font-weight:600;font-size:.85rem;vertical-align:bottom;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.figure{text-align:right}
td.figure{white-space:nowrap}
.missing{color:var(--muted);white-space:normal}
.missing small{display:block;font-size:.78rem;line-height:1.3}
.swatch{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.5em;background:var(--muted)}
.swatch.off{background:var(--mode-off)}
.swatch.identity{background:var(--mode-identity)}
.swatch.lazy{background:var(--mode-lazy)}
.swatch.strict{background:var(--mode-strict)}
.part0{fill:#5b8ff9;background:#5b8ff9}
.part1{fill:#61ddaa;background:#61ddaa}
.part2{fill:#f6903d;background:#f6903d}
.part3{fill:#9270ca;background:#9270ca}
.part4{fill:#e8684a;background:#e8684a}
.part5{fill:#65789b;background:#65789b}
.part6{fill:none;background:none}
.alert{background:var(--warn);border-left:4px solid var(--warn-edge);border-radius:6px;padding:.6rem .9rem;margin:.7rem 0}
.alert ul{margin:.2rem 0}
ul{padding-left:1.2rem;margin:.4rem 0}
li{margin:.25rem 0}
details{margin:.5rem 0}
summary{cursor:pointer;font-weight:600;padding:.25rem 0}
footer{text-align:center;font-size:.85rem;padding:.4rem 1rem 2rem}
@media (max-width:40rem){main{padding:1.2rem .6rem}section{padding:1rem .9rem;border-radius:8px}h1{font-size:1.45rem}}
@media print{body{background:none}section{border:0;padding:0;break-inside:avoid}nav{display:none}}
"#;
