//! Guards behind the rewrites of a real Next.js app, whose build the gateway knows.

use crate::{
    next_front::{config, visit},
    support::{apps::NextApp, gateway::Gateway},
};

/// Invariant: a request passes the guards of the path that a rewrite of the app leads it to.
#[tokio::test]
async fn no_rewrite_of_the_app_leads_around_a_guard() {
    let app = NextApp::shared().await;
    let paths = "/feed, /blog/*, /api/hello, /picture.png";
    let access = "access: { deny: [127.0.0.0/8] }";
    let guarded = format!("  - {{ match: {{ path: [{paths}] }}, upstream: web, {access} }}\n");
    let open = config(&app.address().to_string(), &guarded);
    let folder = format!("app: nextjs\n    folder: {}", app.kind().build().display());
    let known = open.replace("app: nextjs", &folder);
    let (open, known) = tokio::join!(Gateway::start(&open), Gateway::start(&known));
    for (path, shown, is_guarded) in [
        ("/open", "layout:feed", true),
        ("/OPEN?a=1", "layout:feed", true),
        ("/open.rsc", "", true),
        ("/articles/a", "post:a", true),
        ("/post/12/a", "post:a", true),
        ("/entry/x/a", "", false),
        ("/calls/hello", "hello", true),
        ("/calls/health", "", false),
        ("/chosen?slug=a", "post:a", true),
        ("/chosen", "post:b", true),
        ("/optim/image?url=%2Fpicture.png&w=64&q=75", "PNG", true),
        ("/optim/image?url=%2Fother.png&w=64&q=75", "PNG", false),
        ("/thumbnail/1", "PNG", true),
        ("/isr", "", false),
    ] {
        let visit = visit(path).header("x-slug", "to-b");
        let (own, response) = (open.send(&visit).await, known.send(&visit).await);
        // The control: the app leads it there.
        assert!(own.text().contains(shown), "{path}: {}", own.text());
        let status = if is_guarded { 403 } else { own.status() };
        assert_eq!(response.status(), status, "{path}");
    }
}
