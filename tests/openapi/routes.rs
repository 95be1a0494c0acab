//! The routes as the source has them: what is not in the document has to be found out by somebody.

use std::{fs, path::Path};

/// Pages are not of the API.
const PAGES: &str = "web.rs";

/// Every path that the router matches, with `{}` for what is a parameter; one that ends in `/…` goes on.
pub fn in_source() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut routes = Vec::new();
    collect(&folder, &mut routes);
    routes
}

fn collect(folder: &Path, routes: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if path.is_dir() {
            collect(&path, routes);
        } else if name.ends_with(".rs") && name != PAGES && name != "tests.rs" {
            let text = fs::read_to_string(&path).expect("a source");
            routes.extend(of(text.split("#[cfg(test)]").next().unwrap_or_default()));
        }
    }
}

fn of(source: &str) -> Vec<String> {
    const V1: &str = "warp::path(\"api\").and(warp::path(\"v1\"))";
    let prefix = if source.contains(V1) { "/api/v1" } else { "" };
    let source = source.replace(V1, "");
    let macros = source.split("warp::path!(").skip(1).filter_map(|rest| rest.split_once(')'));
    let whole = macros.map(|(arguments, _)| {
        let segments = arguments.split('/').map(str::trim).map(|segment| match segment.strip_prefix('"') {
            Some(word) => word.trim_end_matches('"'),
            None => "{}",
        });
        format!("{prefix}/{}", segments.collect::<Vec<_>>().join("/"))
    });
    let tails = source.split("warp::path(\"").skip(1).filter_map(|rest| rest.split_once('"'));
    whole.chain(tails.map(|(word, _)| format!("{prefix}/{word}/…"))).collect()
}

/// Whether a path of the document is one that the source has.
pub fn stands_for(route: &str, documented: &str) -> bool {
    if let Some(beginning) = route.strip_suffix('…') {
        return documented.starts_with(beginning);
    }
    let (route, documented): (Vec<_>, Vec<_>) = (route.split('/').collect(), documented.split('/').collect());
    route.len() == documented.len()
        && route.iter().zip(&documented).all(|(known, word)| *known == "{}" || known == word)
}

#[test]
fn routes_are_found() {
    let source =
        r#"let a = warp::path!("x" / String / "y").and(b); let c = warp::path("z").and(warp::path::tail());"#;
    assert_eq!(of(source), ["/x/{}/y", "/z/…"]);
    let nested =
        format!("warp::path!(\n \"x\" / Name\n).or(y); {}", "warp::path(\"api\").and(warp::path(\"v1\"))");
    assert_eq!(of(&nested), ["/api/v1/x/{}"]);
    assert!(stands_for("/x/{}/y", "/x/{id}/y") && !stands_for("/x/{}", "/x") && stands_for("/z/…", "/z/a/b"));
}
