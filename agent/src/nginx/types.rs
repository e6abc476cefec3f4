//! The content type of own files, by extension: a list that is kept elsewhere, as nginx reads it.

use std::collections::BTreeMap;

/// Where the list is behind what is registered today, or lacks what sites have.
const INSTEAD: [(&str, &str); 6] = [
    ("cjs", "text/javascript"),
    ("jsonl", "application/jsonl"),
    ("mjs", "text/javascript"),
    ("ndjson", "application/x-ndjson"),
    ("svgz", DEFAULT),
    ("tgz", "application/gzip"),
];

/// Of everything else: with `nosniff` a browser saves it and does not guess.
pub(super) const DEFAULT: &str = "application/octet-stream";

/// What shrinks and is common. The rest is compressed already, is never large, or is rare: nginx's table for these has a
/// fixed size, and with some hundred of them it finds none.
const SHRINKS: [&str; 30] = [
    "application/atom+xml",
    "application/geo+json",
    "application/gpx+xml",
    "application/json",
    "application/jsonl",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/toml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "model/gltf+json",
    "text/calendar",
    "text/css",
    "text/csv",
    "text/html",
    "text/javascript",
    "text/markdown",
    "text/plain",
    "text/tab-separated-values",
    "text/vtt",
    "text/yaml",
];

/// nginx's `types` and `gzip_types`. Text is served as UTF-8, which nearly all of it is; without a charset a
/// browser guesses another one.
pub(super) fn directives() -> String {
    let mut by_type: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (extension, kind) in by_extension() {
        by_type.entry(kind).or_default().push(extension);
    }
    let types: String = by_type
        .iter()
        .map(|(kind, extensions)| format!("    \"{kind}\" {};\n", extensions.join(" ")))
        .collect();
    let shrinking = SHRINKS.map(|kind| format!("    \"{}\"\n", with_charset(kind))).concat();
    let size = (4 * by_type.values().map(Vec::len).sum::<usize>()).next_power_of_two();
    format!(
        "types_hash_max_size {size};\ntypes_hash_bucket_size 128;\ndefault_type {DEFAULT};\ntypes {{\n{types}}}\n\
         gzip_types\n{shrinking};\n"
    )
}

fn by_extension() -> BTreeMap<&'static str, String> {
    let all = new_mime_guess::get_extensions("*", "*").unwrap_or_default();
    let listed = all
        .iter()
        .filter_map(|extension| Some((*extension, new_mime_guess::from_ext(extension).first_raw()?)));
    let types: BTreeMap<&str, &str> = listed.chain(INSTEAD).collect();
    types.into_iter().map(|(extension, kind)| (extension, with_charset(kind))).collect()
}

fn with_charset(kind: &str) -> String {
    if kind.starts_with("text/") { format!("{kind}; charset=utf-8") } else { kind.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_extensions_have_their_registered_type() {
        let types = by_extension();
        for (extension, kind) in [
            ("html", "text/html; charset=utf-8"),
            ("txt", "text/plain; charset=utf-8"),
            ("md", "text/markdown; charset=utf-8"),
            ("csv", "text/csv; charset=utf-8"),
            ("js", "text/javascript; charset=utf-8"),
            ("mjs", "text/javascript; charset=utf-8"),
            ("css", "text/css; charset=utf-8"),
            ("json", "application/json"),
            ("map", "application/json"),
            ("webmanifest", "application/manifest+json"),
            ("wasm", "application/wasm"),
            ("svg", "image/svg+xml"),
            ("avif", "image/avif"),
            ("ttf", "font/ttf"),
            ("otf", "font/otf"),
            ("woff", "font/woff"),
            ("woff2", "font/woff2"),
            ("zip", "application/zip"),
            ("gz", "application/gzip"),
            ("tgz", "application/gzip"),
            ("7z", "application/x-7z-compressed"),
            ("ogg", "audio/ogg"),
            ("mov", "video/quicktime"),
            ("mp4", "video/mp4"),
            ("pdf", "application/pdf"),
            ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ] {
            assert_eq!(types.get(extension).map(String::as_str), Some(kind), "{extension}");
        }
    }

    #[test]
    fn nothing_in_the_list_ends_a_directive() {
        let quotable = |text: &str| !text.contains(['"', '\\', '$', '{', '}', '\n']);
        for (extension, kind) in by_extension() {
            assert!(quotable(&kind), "{kind}");
            assert!(
                !extension.is_empty() && quotable(extension) && !extension.contains([' ', ';']),
                "{extension}"
            );
        }
    }

    #[test]
    fn what_shrinks_is_the_type_of_something() {
        let types = by_extension();
        let unheard: Vec<&str> = SHRINKS
            .into_iter()
            .filter(|kind| !types.values().any(|known| *known == with_charset(kind)))
            .collect();
        assert!(unheard.is_empty(), "{unheard:?}");
    }
}
