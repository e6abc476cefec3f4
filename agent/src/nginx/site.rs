//! Own static content: whether there is any, and how it is served.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use super::config::{Nginx, PrepareError, is_generated, quoted};

/// A path that no site has, because Envoy and nginx refuse it.
const MISSING: &str = "/.missing";

/// The page of a site that finds its way by itself: served with 200 for each address that names no file, so that a deep
/// link into it works. `None`: such an address is 404.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fallback(Option<String>);

impl FromStr for Fallback {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let usage = "expected none, or the path of a page of the site such as /index.html";
        let plain = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.~".contains(c))
        };
        if !text.strip_prefix('/').is_some_and(|path| path.split('/').all(plain)) {
            return Err(format!("{usage}: letters, digits, and . _ - ~ between slashes"));
        }
        if is_generated(&text[1..]) {
            return Err(format!("{usage}: {text} is muster's own"));
        }
        Ok(Self(Some(text.to_owned())))
    }
}

/// Whether own content is there to be served: any file at any depth.
pub fn holds_a_file(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match fs::metadata(entry.path()) {
        // A link to a directory counts as something to serve, and is not followed into a loop.
        Ok(found) => found.is_file() || entry.path().is_symlink() || holds_a_file(&entry.path()),
        Err(_) => false,
    })
}

impl Nginx {
    /// Every location that is not a generated file's, with its lines.
    pub(super) fn site_locations(&self) -> Result<Vec<(String, Vec<String>)>, PrepareError> {
        let nowhere = format!("root {}", quoted(&self.run_dir.join("nowhere"))?);
        let with = |lines: &[String], last: &str| [lines, &[last.to_owned()]].concat();
        let Some(site) = &self.site else {
            let none = ["include headers.conf".to_owned(), nowhere];
            return Ok(vec![
                ("= /".to_owned(), with(&none, "index /ips.html")),
                ("/".to_owned(), with(&none, "index index.html")),
                ("/.".to_owned(), none.to_vec()),
            ]);
        };
        let own_404 = "error_page 404 /404.html".to_owned();
        let mut own = vec![
            "include site.conf".to_owned(),
            format!("root {}", quoted(site)?),
            "gzip_static on".to_owned(),
            "brotli_static on".to_owned(),
            // A read from a slow disk would block the only worker, and every connection with it.
            "aio threads".to_owned(),
            own_404.clone(),
        ];
        // Links are followed where they cannot lead out.
        if self.sandbox.is_none() {
            own.push(without_links(site)?);
        }
        let mut pages = with(&own, "index index.html");
        let mut locations = vec![
            ("= /".to_owned(), with(&own, "index index.html /ips.html")),
            ("/.well-known/".to_owned(), own.clone()),
            // Deeper dotfiles of own content are Envoy's to refuse.
            ("/.".to_owned(), vec!["include headers.conf".to_owned(), nowhere, own_404]),
        ];
        if let Some(page) = &self.fallback.0 {
            pages.push("try_files $uri $uri/ $shell".to_owned());
            // A location of its own, or nginx would look for a page that is not there in a circle.
            locations.push((format!("= {page}"), own));
        }
        locations.push(("/".to_owned(), pages));
        Ok(locations)
    }

    /// The variable `$shell`: where an address leads that names no file. A script or picture that is gone stays 404, because
    /// a browser would report a page in its place as a syntax error. Browsers say what they load; other clients get the page.
    pub(super) fn shell(&self) -> String {
        let Some(page) = &self.fallback.0 else { return String::new() };
        format!(
            "    map $http_sec_fetch_mode $shell {{\n        default {MISSING};\n        \"\" {page};\n        navigate \
             {page};\n    }}\n"
        )
    }
}

/// The directive by which nginx follows no link below the site. What is above is the operator's own.
pub(super) fn without_links(site: &Path) -> Result<String, PrepareError> {
    let mut from = OsString::from("from=");
    from.push(site);
    Ok(format!("disable_symlinks on {}", quoted(Path::new(&from))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_a_page_of_the_site() {
        assert_eq!("none".parse(), Ok(Fallback(None)));
        for right in ["/index.html", "/app/shell-1.html"] {
            assert_eq!(right.parse(), Ok(Fallback(Some(right.to_owned()))));
        }
        for wrong in [
            "",
            "/",
            "index.html",
            "/app/",
            "/a/../b",
            "/.env",
            "/a b",
            "/$uri",
            "/x;",
            "/ips.html",
            "/healthz",
        ] {
            assert!(wrong.parse::<Fallback>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_tree_is_no_site() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!holds_a_file(&dir.path().join("missing")));
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert!(!holds_a_file(dir.path()));
        fs::write(dir.path().join("a/b/index.html"), "hello").unwrap();
        assert!(holds_a_file(dir.path()));
    }
}
