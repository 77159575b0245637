//! Where the processor's time went: the flame graph and the functions that ran most.

use iommu_results::artefacts::Profile;

use super::page::{Cell, Page};

/// Functions in the table.
const MOST: usize = 12;

pub(super) fn flame(page: &mut Page, profile: Option<&Profile>) {
    let Some(profile) = profile else { return };
    let (total, functions) = profile.hottest();
    if total == 0 {
        return;
    }
    page.section("profile", "Where the time goes");
    page.paragraph(
        "A flame graph of all cases together, sampled in the rounds in which probes were attached. A box is a function, its \
         width the share of samples with it on the stack; below it is what called it.",
    );
    page.raw(&format!(
        "<figure><div class=\"scroll\"><img alt=\"flame graph\" src=\"data:image/svg+xml,{}\"></div></figure>",
        percent_encoded(&profile.svg)
    ));
    page.raw("<p><a href=\"profile.svg\">profile.svg</a> beside this page can be zoomed and searched.</p>");
    let share = |samples: u64| format!("{:.1} %", 100.0 * samples as f64 / total as f64);
    let rows = functions.into_iter().take(MOST).map(|(name, samples)| {
        vec![Cell::Text(name.to_owned()), Cell::Figure(samples.to_string()), Cell::Figure(share(samples))]
    });
    page.table(&["function", "samples of its own", "share"], rows.collect());
}

/// Text as part of a URL (RFC 3986, unreserved characters as they are).
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b','
            | b'='
            | b' ' => {
                encoded.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_picture_gets_out_of_the_attribute() {
        let encoded = percent_encoded("<svg a=\"1\">\n#%&'</svg>µ");
        assert_eq!(encoded, "%3Csvg a=%221%22%3E%0A%23%25%26%27%3C/svg%3E%C2%B5");
    }
}
