//! The `format` file of a tracepoint: text in, fields out. Depends on nothing, so that the fuzz target builds without aya.

/// A field of a tracepoint's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordField {
    /// Its name.
    pub name: String,
    /// Where it lies in the record, bytes.
    pub offset_bytes: u16,
    /// Its size, bytes.
    pub size_bytes: u16,
    /// Whether it is signed.
    pub signed: bool,
}

/// Reads a tracepoint's `format`; the error is the line that is not understood.
///
/// # Errors
///
/// A line that begins with `field:` and is not complete.
pub fn parse_format(text: &str) -> Result<Vec<RecordField>, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("field:"))
        .map(|line| parse_field(line).ok_or_else(|| line.to_owned()))
        .collect()
}

/// `field:unsigned int exit_reason; offset:8; size:4; signed:0;`
fn parse_field(line: &str) -> Option<RecordField> {
    let mut parts = line.split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    // `char comm[16]`: the name is what comes before the bracket.
    let declared = declaration.split_once('[').map_or(declaration, |(before, after)| {
        // `__data_loc char[] device`: the brackets belong to the type.
        if after.starts_with("] ") { declaration } else { before }
    });
    let name = declared.split_whitespace().next_back()?.trim_start_matches('*').to_owned();
    let mut value = |key: &str| parts.next()?.strip_prefix(key)?.strip_prefix(':');
    Some(RecordField {
        name,
        offset_bytes: value("offset")?.parse().ok()?,
        size_bytes: value("size")?.parse().ok()?,
        signed: value("signed")? == "1",
    })
}
