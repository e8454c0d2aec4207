//! The page for browsers at `/`: one file, which loads no other file. Its script asks the other paths of this listener.
//!
//! Names of clients and texts of backends reach the page. So its policy allows the browser to run only the script of the
//! file, and the script can make no markup of a text.

use sha2::{Digest, Sha256};

/// The paths of the page. They need no token, because they have no data.
pub(super) const PATHS: [&str; 2] = ["/", ICON];

/// The path that browsers ask for an icon. There is none.
pub(super) const ICON: &str = "/favicon.ico";

/// The file.
pub(super) const TEXT: &str = include_str!("web_page.html");

/// Returns the value of the header Content-Security-Policy. It names the script and the style of the file by their
/// digests.
pub(super) fn policy() -> String {
    let [script, style] = ["script", "style"].map(|element| base64(&Sha256::digest(content(element))));
    format!(
        "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'"
    )
}

/// Returns the text of the only element of this name in the file.
///
/// # Panics
///
/// If there is no such element.
fn content(element: &str) -> &'static str {
    let (_, rest) = TEXT.split_once(&*format!("<{element}>")).expect("the file has this element");
    rest.split_once(&*format!("</{element}>")).expect("the element has an end").0
}

/// Returns bytes in the letters of RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for letter in 0..4 {
            let index = (bits >> (18 - 6 * letter)) & 63;
            text.push(if letter <= group.len() { char::from(LETTERS[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest size of the file.
    const LARGEST: usize = 60_000;

    #[test]
    fn letters_are_those_of_the_rfc() {
        let check = |bytes: &str, expected: &str| assert_eq!(base64(bytes.as_bytes()), expected);
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foob", "Zm9vYg==");
        check("fooba", "Zm9vYmE=");
        check("foobar", "Zm9vYmFy");
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn the_policy_names_the_script_and_the_style() {
        let policy = policy();
        for element in ["script", "style"] {
            let digest = base64(&Sha256::digest(content(element)));
            assert_eq!(digest.len(), 44, "{digest}");
            assert!(policy.contains(&format!("; {element}-src 'sha256-{digest}'; ")), "{policy}");
        }
        assert!(!policy.contains("inline") && !policy.contains("eval") && !policy.contains('*'), "{policy}");
    }

    /// The policy would break a page that has one of these parts, so it would show in a browser only.
    #[test]
    fn the_file_has_nothing_that_its_policy_forbids() {
        assert!(TEXT.len() <= LARGEST, "{} bytes", TEXT.len());
        for once in ["<script>", "</script>", "<style>", "</style>"] {
            assert_eq!(TEXT.matches(once).count(), 1, "{once}");
        }
        for part in [
            " style=",
            "<link",
            "<img",
            "<iframe",
            "<base",
            "<form action",
            " src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "new Function",
            "javascript:",
            "localStorage",
            "sessionStorage",
            "indexedDB",
            "document.cookie",
            "http-equiv",
            "//cdn",
        ] {
            assert!(!TEXT.contains(part), "{part}");
        }
        let markup = TEXT.replace(content("script"), "").replace(content("style"), "");
        let handler = regex::Regex::new(r"<[^>]*\son[a-z]+\s*=").expect("an expression");
        assert!(!handler.is_match(&markup), "{:?}", handler.find(&markup));
        assert!(handler.is_match("<p class='a' onclick='b'>"));
    }
}
