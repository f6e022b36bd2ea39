//! The page of a report: drawn when a build ends, again on demand, and complete in itself.

mod common;

use common::Project;

#[test]
fn the_page_of_a_report_is_drawn_and_stands_alone() {
    let project = Project::copy_of("tests/page");
    let ran = project
        .ok(&[])
        .says("gates passed: 2 of 3")
        .says("cache/latest/report/report.html");
    drop(ran);
    let html = project.read("cache/latest/report/report.html");
    for shown in [
        "Numbers that are made up",
        "stage 2 is below stage 1",
        "does not hold",
        "<polyline",
        "class=\"dag\"",
        "win-rates",
        "online-over-dpo",
        "81.5%",
        "logged",
    ] {
        assert!(html.contains(shown), "{shown}");
    }
    let html = html.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(
            !html.contains(outside),
            "the page reaches outside: {outside}"
        );
    }
    project
        .ok(&[])
        .says("nothing to do")
        .says("gates passed: 2 of 3");
    project
        .ok(&["page", "report", "-o", "elsewhere.html"])
        .says("elsewhere.html");
    assert_eq!(
        project.read("elsewhere.html"),
        project.read("cache/latest/report/report.html")
    );
    project
        .run(&["page", "measured"])
        .exits(1)
        .says("no report");
}

#[test]
fn a_graph_is_drawn_in_three_forms() {
    let project = Project::copy_of("tests/page");
    project
        .ok(&["graph"])
        .says("digraph kbuild")
        .says("logged@of=dpo\\ncommand");
    project
        .ok(&["graph", "--format", "mermaid", "report"])
        .says("-->");
    let svg = project.ok(&["graph", "--format", "svg"]).stdout();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(!project.path("cache").exists(), "drawing writes nothing");
}

#[test]
fn a_page_to_walk_through_shows_groups_tasks_and_their_status() {
    let project = Project::copy_of("tests/page");
    let page = || {
        project
            .ok(&["graph", "--format", "html", "-o", "graph.html"])
            .says("graph.html");
        project.read("graph.html")
    };
    let before = page();
    assert!(before.contains("data-status=\"miss\"") && before.contains("never built"));
    assert_eq!(before.matches("<svg class=\"dag\"").count(), 2);
    project.ok(&[]);
    let after = page();
    assert!(!after.contains("data-status=\"miss\"") && after.contains("data-status=\"hit\""));
    assert_eq!(page(), after, "the same graph is the same page");
    let after = after.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http://", "https://", "src=", "<link", "url("] {
        assert!(
            !after.contains(outside),
            "the page reaches outside: {outside}"
        );
    }
}
