//! `edgeway explain METHOD URL`.

use std::net::IpAddr;

use edgeway_gateway::explain::{ExplainRequest, ExplainScope, Explanation};
use edgeway_proxy::edge::explain;
use edgeway_status::client::READ_TIMEOUT;

use super::{
    Failure,
    admin::{AdminOption, ConfigPlace, OutputFormat},
    check, out,
};

#[derive(Debug, clap::Args)]
pub struct ExplainOptions {
    /// The request's method, such as GET
    method: String,
    /// A path, or a whole http URL
    url: String,
    /// A header of the request, as with curl: `Name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    client: IpAddr,
    /// The listener that receives the request [default: by the URL's port or scheme]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Ask the running gateway, which also knows what its cache has for the request
    #[arg(long)]
    live: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: OutputFormat,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &ExplainOptions) -> Result<(), Failure> {
    let question = ExplainRequest {
        method: options.method.clone(),
        url: options.url.clone(),
        headers: options.headers.clone(),
        client: options.client,
        listener: options.listener.clone(),
    };
    if options.live {
        return live(options, &question);
    }
    let path = match options.admin.place() {
        ConfigPlace::File(path) => path,
        ConfigPlace::Installed(path) => {
            out::note(&format!(
                "edgeway: there is no edgeway.yaml here, so this is by {}",
                path.display()
            ));
            path
        }
        ConfigPlace::Running => {
            out::note("edgeway: there is no edgeway.yaml here, so the running gateway explains");
            return live(options, &question);
        }
        ConfigPlace::Nowhere(why) => {
            out::note(&why);
            return Err(Failure::CONFIG);
        }
    };
    let checked = check::load(&path);
    let Some(gateway) = &checked.gateway else {
        out::note(&checked.report());
        return Err(Failure::CONFIG);
    };
    let explanation = explain(gateway, &question, ExplainScope::AtTheRules);
    let explanation = explanation.map_err(Failure::usage)?;
    let show = |explanation: &Explanation| out::data(&explanation.to_string());
    options.format.print(&explanation, show);
    Ok(())
}

/// Lets the running gateway explain, which also knows its cache.
fn live(options: &ExplainOptions, question: &ExplainRequest) -> Result<(), Failure> {
    options.admin.print(
        options.format == OutputFormat::Json,
        async |client| client.post("/v1/explain", question, READ_TIMEOUT).await,
        |explanation: &Explanation| out::data(&explanation.to_string()),
    )
}
