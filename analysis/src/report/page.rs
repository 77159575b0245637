//! Writing HTML: whatever comes from a run goes through [`escape`].

use iommu_results::Run;

pub(super) use crate::plot::escape;
use crate::plot::{PlotError, THEME};

use super::style::CSS;

/// The page under construction.
pub(super) struct Page {
    title: String,
    body: String,
    /// Sections so far: anchor and heading.
    contents: Vec<(&'static str, &'static str)>,
}

/// A table's cell.
pub(super) enum Cell {
    /// Words.
    Text(String),
    /// A figure, right-aligned.
    Figure(String),
    /// What could not be measured, and why.
    Missing(String),
    /// Heading of its row, with the colour of a mode.
    Mode(iommu_results::Mode),
    /// Heading of its row, with the colour of a part of a breakdown.
    Part(usize, String),
}

impl Page {
    pub(super) fn new(title: &str) -> Self {
        Self { title: escape(title), body: String::new(), contents: Vec::new() }
    }

    /// Markup that is ours, or escaped already.
    pub(super) fn raw(&mut self, html: &str) {
        self.body.push_str(html);
        self.body.push('\n');
    }

    pub(super) fn section(&mut self, anchor: &'static str, heading: &'static str) {
        if !self.contents.is_empty() {
            self.raw("</section>");
        }
        self.contents.push((anchor, heading));
        self.raw(&format!("<section id=\"{anchor}\"><h2>{heading}</h2>"));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        self.raw(&format!("<p>{}</p>", escape(text)));
    }

    pub(super) fn note(&mut self, text: &str) {
        self.raw(&format!("<p class=\"note\">{}</p>", escape(text)));
    }

    pub(super) fn sub(&mut self, text: &str) {
        self.raw(&format!("<h3>{}</h3>", escape(text)));
    }

    /// A plot, or why there is none.
    pub(super) fn plot(&mut self, plot: Result<String, PlotError>) {
        match plot {
            Ok(svg) => self.raw(&format!("<figure><div class=\"scroll\">{svg}</div></figure>")),
            Err(error) => self.note(&format!("n/a: {error}")),
        }
    }

    pub(super) fn table(&mut self, heads: &[&str], rows: Vec<Vec<Cell>>) {
        let figures: Vec<bool> = (0..heads.len())
            .map(|column| rows.iter().any(|row| matches!(row.get(column), Some(Cell::Figure(_)))))
            .collect();
        let mut html = String::from("<div class=\"scroll\"><table>");
        if heads.iter().any(|head| !head.is_empty()) {
            html.push_str("<thead><tr>");
            for (head, figure) in heads.iter().zip(figures) {
                let class = if figure { " class=\"figure\"" } else { "" };
                html.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escape(head)));
            }
            html.push_str("</tr></thead>");
        }
        html.push_str("<tbody>\n");
        for row in rows {
            html.push_str("<tr>");
            row.iter().for_each(|cell| html.push_str(&cell.html()));
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>");
        self.raw(&html);
    }

    pub(super) fn list(&mut self, items: impl IntoIterator<Item = String>) {
        self.raw("<ul>");
        for item in items {
            self.raw(&format!("<li>{}</li>", escape(&item)));
        }
        self.raw("</ul>");
    }

    /// The page of a run.
    pub(super) fn finish(self, run: &Run) -> String {
        self.finish_as(&run.revision, &run.schema)
    }

    /// The page of what a build of `revision` made with `schema`.
    pub(super) fn finish_as(mut self, revision: &str, schema: &str) -> String {
        if !self.contents.is_empty() {
            self.raw("</section>");
        }
        let links: String = self
            .contents
            .iter()
            .map(|(anchor, heading)| format!("<a href=\"#{anchor}\">{heading}</a> "))
            .collect();
        let variables = |pick: fn(&(&str, &'static str, &'static str)) -> &'static str| -> String {
            THEME.iter().map(|ink| format!("--{}:{};", ink.0, pick(ink))).collect()
        };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
             <title>{title}</title>\n<style>\n:root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n\
             {CSS}</style>\n</head>\n<body>\n<main>\n{head}<nav aria-label=\"Contents\">{links}</nav>\n{body}</main>\n\
             <footer>iommu-bench {revision} · schema {schema}</footer>\n</body>\n</html>\n",
            title = self.title,
            light = variables(|ink| ink.1),
            dark = variables(|ink| ink.2),
            head = self.head_of_body(),
            body = self.after_head(),
            revision = escape(revision),
            schema = escape(schema),
        )
    }

    /// What stands above the first section.
    fn head_of_body(&self) -> &str {
        self.body.split_once("<section").map_or(&self.body, |(head, _)| head)
    }

    fn after_head(&self) -> &str {
        self.body.get(self.head_of_body().len()..).unwrap_or_default()
    }
}

impl Cell {
    fn html(&self) -> String {
        match self {
            Self::Text(text) => format!("<td>{}</td>", escape(text)),
            Self::Figure(text) => format!("<td class=\"figure\">{}</td>", escape(text)),
            Self::Missing(reason) => {
                format!("<td class=\"figure missing\">n/a<small>{}</small></td>", escape(reason))
            }
            Self::Part(ink, name) => {
                let name = escape(name);
                format!("<th scope=\"row\"><span class=\"swatch part{ink}\"></span>{name}</th>")
            }
            Self::Mode(mode) => {
                format!("<th scope=\"row\"><span class=\"swatch {mode}\"></span>{mode}</th>")
            }
        }
    }
}
