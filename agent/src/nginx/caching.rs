//! How long own files may be kept by browsers and caches: for ever when the name changes with the content, else only as
//! long as they are asked for again.

use std::fs;
use std::path::Path;

/// What is not named by its content is asked for each time, which costs a 304.
const REVALIDATE: &str = "no-cache";
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Most files that are looked at, and most of them that are written down: a site may hold anything.
const MAX_FILES: usize = 100_000;
const MAX_NAMES: usize = 10_000;
const MAX_DEPTH: usize = 32;
/// Longest path that is written down, so that each fits into nginx's table.
const MAX_PATH_BYTES: usize = 255;

/// Extensions of what build tools name by its content. A page never is: people type its name.
const NAMED_BY_CONTENT: [&str; 21] = [
    "avif", "css", "eot", "gif", "ico", "jpeg", "jpg", "js", "json", "map", "mjs", "mp4", "otf", "png",
    "svg", "ttf", "wasm", "webm", "webp", "woff", "woff2",
];

/// nginx's `map` from a path to the value of `Cache-Control`, as the site is now.
///
/// A list and not a pattern, because nginx has no regular expressions here. Files that come later are asked for each time
/// until the configuration is written anew.
pub(super) fn directives(site: Option<&Path>) -> String {
    let mut names = Vec::new();
    if let Some(site) = site {
        walk(site, "", MAX_DEPTH, &mut 0, &mut names);
    }
    names.sort();
    let lines: String = names.iter().map(|name| format!("    \"{name}\" \"{FOR_EVER}\";\n")).collect();
    let size = (4 * names.len()).next_power_of_two().max(2048);
    format!(
        "map_hash_max_size {size};\nmap_hash_bucket_size 512;\nmap $uri $site_cache {{\n    default {REVALIDATE};\n\
         {lines}}}\n"
    )
}

fn walk(dir: &Path, path: &str, depth: usize, seen: &mut usize, names: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        *seen += 1;
        if *seen > MAX_FILES || names.len() >= MAX_NAMES {
            return;
        }
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_plain(name)) else { continue };
        let path = format!("{path}/{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => walk(&entry.path(), &path, depth - 1, seen, names),
            Ok(kind) if kind.is_file() && path.len() <= MAX_PATH_BYTES && is_named_by_content(name) => {
                names.push(path)
            }
            _ => {}
        }
    }
}

/// Nothing that nginx's configuration would read as something else, and nothing hidden.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~+@".contains(c))
}

/// Whether the name holds a hash as build tools write one, in the middle (`main.3f2a1b9c.chunk.js`) or before the extension
/// (`index-DiwrgTda.js`). What is doubtful is none: then it is only asked for again.
fn is_named_by_content(name: &str) -> bool {
    let mut parts = name.split('.');
    let Some(first) = parts.next() else { return false };
    let mut rest: Vec<&str> = parts.collect();
    let Some(extension) = rest.pop() else { return false };
    let base = first.rsplit_once(['-', '_']).map(|(_, last)| last);
    // The whole of a name may be a hash in hexadecimal; a word of eight letters may look like one of the other kind.
    NAMED_BY_CONTENT.contains(&extension)
        && (is_hexadecimal_hash(first)
            || base.is_some_and(is_hash)
            || rest.iter().any(|part| is_hash(part.rsplit(['-', '_']).next().unwrap_or(part))))
}

fn is_hash(part: &str) -> bool {
    is_hexadecimal_hash(part) || is_base64_hash(part)
}

/// webpack, Parcel, Next.js, Hugo: 8 digits or more, of which some are digits and some letters. A date is none.
fn is_hexadecimal_hash(part: &str) -> bool {
    let hexadecimal = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    (8..=128).contains(&part.len()) && hexadecimal && digits >= 2 && digits < part.len()
}

/// Vite and esbuild: 8 of letters and digits, which change their kind at least three times. `Version2` is none.
fn is_base64_hash(part: &str) -> bool {
    let kind = |byte: u8| match byte {
        b'0'..=b'9' => Some(0),
        b'a'..=b'z' => Some(1),
        b'A'..=b'Z' => Some(2),
        _ => None,
    };
    let kinds: Option<Vec<u8>> = part.bytes().map(kind).collect();
    part.len() == 8
        && kinds.is_some_and(|kinds| kinds.windows(2).filter(|pair| pair[0] != pair[1]).count() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_build_tools_are_seen() {
        for name in [
            "main.3f2a1b9c.js",
            "main.8a9b0c1d.chunk.js",
            "main.8a9b0c1d.js.map",
            "index-DiwrgTda.js",
            "index-BX2kq9dZ.css",
            "app-4QGOQ5M7.js",
            "app-6d2cb1fc0e4de5ce4fb5.js",
            "3f2a1b9c0d4e5f60.woff2",
            "logo.a1b2c3d4.svg",
            "style.min.0123456789abcdef0123456789abcdef.css",
        ] {
            assert!(is_named_by_content(name), "{name}");
        }
    }

    #[test]
    fn names_of_people_are_none() {
        for name in [
            "index.html",
            "main.js",
            "jquery.min.js",
            "jquery-3.7.1.min.js",
            "photo-20240131.jpg",
            "IMG_20240131.jpg",
            "brochure-Version2.png",
            "logo-dark2024.png",
            "background-gradient.png",
            "deadbeef.js",
            "facade.jpg",
            "3f2a1b9c.html",
            "report-3f2a1b9c.pdf",
            "noextension-3f2a1b9c",
            "vendor.bundle.js",
        ] {
            assert!(!is_named_by_content(name), "{name}");
        }
    }

    #[test]
    fn a_site_is_listed_by_path_and_what_nginx_could_misread_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("assets/.hidden")).unwrap();
        for name in [
            "assets/index-DiwrgTda.js",
            "assets/.hidden/main.3f2a1b9c.js",
            "a b.3f2a1b9c.js",
            "$x.3f2a1b9c.js",
            "q\".3f2a1b9c.js",
            "page.html",
        ] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let text = directives(Some(dir.path()));
        let listed: Vec<&str> = text.lines().filter(|line| line.contains("immutable")).collect();
        assert_eq!(listed, [format!("    \"/assets/index-DiwrgTda.js\" \"{FOR_EVER}\";")]);
    }
}
