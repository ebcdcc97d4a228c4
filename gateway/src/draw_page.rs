//! `/draw`: the page with which anybody checks a draw in their browser. One file that loads nothing from anywhere, so
//! it can be saved and works from a disk. What it shows and computes is in templates/draw/: the files of [`VERIFY`]
//! decide a bundle again, as domain/line of the engine does, and `page.js` is the page around them.

use askama::Template;

use crate::static_page::{self, StaticPage};

const STYLE: &str = include_str!("../templates/draw/page.css");
/// One script, each file behind those that it needs.
const VERIFY: &str = concat!(
    include_str!("../templates/draw/words.js"),
    include_str!("../templates/draw/bytes.js"),
    include_str!("../templates/draw/rules.js"),
    include_str!("../templates/draw/list.js"),
    include_str!("../templates/draw/chance.js"),
    include_str!("../templates/draw/rounds.js"),
    include_str!("../templates/draw/verify.js"),
);
const SCRIPT: &str = include_str!("../templates/draw/page.js");

/// It asks this shop for a bundle, and computes in a worker that it makes of its own script. Nothing else.
const MORE: [&str; 2] = ["connect-src 'self'", "worker-src blob:"];

#[derive(Template)]
#[template(path = "draw/page.html")]
struct Page<'a> {
    style: &'static str,
    verify: &'static str,
    script: &'static str,
    /// For the page when it has been saved, and comes without headers.
    policy: &'a str,
}

/// The page as a file.
pub fn html() -> String {
    let policy = policy();
    let page = Page { style: STYLE, verify: VERIFY, script: SCRIPT, policy: &policy };
    page.render().expect("a String takes all that is written")
}

/// The page as an answer.
pub fn page() -> StaticPage {
    StaticPage::new(html(), &policy())
}

fn policy() -> String {
    static_page::policy(STYLE, &[VERIFY, SCRIPT], &MORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_its_scripts_are_those_that_the_policy_allows() {
        let page = html();
        for other in ["src=", "<link", "<img", "onclick", "style=", "eval("] {
            assert!(!page.contains(other), "{other}");
        }
        assert!(!STYLE.contains("@import") && !STYLE.contains("url("));
        // A hash is that of the text between the tags, as a browser reads it.
        assert!(!page.contains('\r'));
        for (of, text) in [("<style>", STYLE), ("<script id=\"verify\">", VERIFY), ("<script>", SCRIPT)] {
            assert!(page.contains(&format!("{of}{text}</s")), "{of}");
        }
        assert!(page.len() < 80_000, "{} bytes", page.len());
    }
}
