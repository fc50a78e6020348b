//! What a notebook cell shows.

/// Prints representations of one output, best first, in the form that the evcxr kernel turns into a
/// MIME bundle. Outside a notebook the plain text alone.
pub(crate) fn content(representations: &[(&str, &str)]) {
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        let bundle: String = representations
            .iter()
            .map(|(mime, text)| format!("EVCXR_BEGIN_CONTENT {mime}\n{text}\nEVCXR_END_CONTENT\n"))
            .collect();
        print!("{bundle}");
    } else if let Some((_, text)) = representations.iter().find(|(mime, _)| *mime == "text/plain") {
        println!("{text}");
    }
}
