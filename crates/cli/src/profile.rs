//! `edgeway profile`: lists profiles, and switches them on and off.

use edgeway_status::{
    actions::{ProfileSelection, Profiles, SwitchResult},
    client::ACTION,
};

use super::{Failure, admin::AdminOption, out};

#[derive(Debug, clap::Args)]
pub struct ProfileOptions {
    /// The profile to switch on; without a name all are listed
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Switch the active one off
    #[arg(long, conflicts_with = "name")]
    off: bool,
    /// Print the list, or the result, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOption,
}

pub fn run(options: &ProfileOptions) -> Result<(), Failure> {
    if options.name.is_none() && !options.off {
        return options.admin.print(
            options.json,
            async |client| client.get("/v1/profiles").await,
            list,
        );
    }
    let to = ProfileSelection {
        name: options.name.clone(),
    };
    options.admin.print(
        options.json,
        async |client| client.post("/v1/profile", &to, ACTION).await,
        |switched: &SwitchResult| {
            let active = match &switched.active {
                Some(name) => format!("`{name}` is switched on"),
                None => "no profile is switched on".to_owned(),
            };
            out::note(&match switched.reset {
                0 => active,
                count => format!(
                    "{active}; the times of {} were set again",
                    out::counted(count, "stored response")
                ),
            });
        },
    )
}

fn list(Profiles { active, profiles }: &Profiles) {
    if profiles.is_empty() {
        out::note("the configuration has no profiles");
    }
    for name in profiles {
        let is_active = active.as_ref() == Some(name);
        out::data(&format!("{} {name}", if is_active { "*" } else { " " }));
    }
}
