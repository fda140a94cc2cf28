//! `[[webhooks]]` and `[[groups]]`: the registry.

use std::{fs, path::Path, time::Duration};

use pushline_model::{
    Auth, AuthHeaders, CustomHeader, GroupId, HeaderName, Iccid, IccidForm, Identify, Invalid, Order, Organisation, PayloadForm, Registry,
    RegistryBuilder, Secret, Url, Webhook,
};

use super::{
    document::{ConfigError, Place},
    fields::{OneOf, Parsed, Size, Words},
    section::Section,
};

impl Words for Identify {
    const WORDS: &'static [(&'static str, Self)] = &[("iccid", Self::Iccid), ("topic", Self::Topic)];
}

impl Words for IccidForm {
    const WORDS: &'static [(&'static str, Self)] = &[("number", Self::Number), ("string", Self::String)];
}

impl Words for PayloadForm {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("base64", Self::Base64), ("json", Self::Json)];
}

impl Words for Order {
    const WORDS: &'static [(&'static str, Self)] = &[("arrival", Self::Arrival), ("strict", Self::Strict)];
}

impl Words for AuthHeaders {
    const WORDS: &'static [(&'static str, Self)] =
        &[("both", Self::Both), ("authorization", Self::Authorization), ("authentication", Self::Authentication)];
}

/// Reads both lists. Files that they name are sought beside the configuration file.
pub(super) fn registry(root: &mut Section, folder: &Path) -> Result<Registry, ConfigError> {
    let mut builder = RegistryBuilder::default();
    for mut section in root.sections("webhooks")? {
        let webhook = webhook(&mut section, folder)?;
        builder.webhook(webhook).map_err(|invalid| place(&section, &invalid))?;
        section.finish()?;
    }
    for mut section in root.sections("groups")? {
        group(&mut section, folder, &mut builder)?;
        section.finish()?;
    }
    Ok(builder.build())
}

/// A mistake that only shows when all fields are there belongs to the field that it names.
fn place(section: &Section, invalid: &Invalid) -> ConfigError {
    match invalid {
        Invalid::Option { field, .. } => section.error(field, invalid),
        Invalid::Twice { what: "webhook", .. } => section.error("name", invalid),
        Invalid::HeaderName { .. } | Invalid::Twice { what: "header", .. } => section.error("headers", invalid),
        Invalid::BasicUser | Invalid::Credential(_) => section.error("auth", invalid),
        _ => section.error_here(invalid),
    }
}

fn webhook(section: &mut Section, folder: &Path) -> Result<Webhook, ConfigError> {
    let name: String = section.require("name")?;
    let Parsed(url): Parsed<Url> = section.require("url")?;
    let defaults = Webhook::new(&name, url);
    let whole = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    Ok(Webhook {
        description: section.or("description", String::new())?,
        auth: auth(section, folder)?,
        auth_headers: section.or("auth_headers", OneOf(defaults.auth_headers))?.0,
        headers: headers(section)?,
        send: section.or("send", OneOf(defaults.send))?.0,
        iccid: section.or("iccid", OneOf(defaults.iccid))?.0,
        payload: section.or("payload", OneOf(defaults.payload))?.0,
        timeout: section.or("timeout", defaults.timeout)?,
        retries: section.or("retries", defaults.retries)?,
        retry_delays: section.list::<Duration>("retry_delays")?.unwrap_or(defaults.retry_delays),
        retry_on_status: statuses(section)?,
        window: section.or("window", defaults.window)?,
        max_packets: whole(u64::from(section.or("max_packets", 10u32)?)),
        max_body_bytes: whole(section.or("max_body_bytes", Size(1 << 20))?.0),
        concurrency: whole(u64::from(section.or("concurrency", 16u32)?)),
        order: section.or("order", OneOf(defaults.order))?.0,
        always_array: section.or("always_array", false)?,
        secret: signing_secret(section, folder)?,
        name: defaults.name,
        url: defaults.url,
    })
}

fn statuses(section: &mut Section) -> Result<Vec<u16>, ConfigError> {
    let statuses = section.list::<u32>("retry_on_status")?.unwrap_or_default();
    let status =
        |status: u32| u16::try_from(status).map_err(|_| section.error("retry_on_status", format!("{status} is no status: 300 to 599")));
    statuses.into_iter().map(status).collect()
}

fn headers(section: &mut Section) -> Result<Vec<CustomHeader>, ConfigError> {
    let texts = section.texts("headers")?;
    let header =
        |(name, value, _): (String, String, Place)| CustomHeader::new(&name, &value).map_err(|invalid| section.error("headers", invalid));
    texts.into_iter().map(header).collect()
}

fn auth(webhook: &mut Section, folder: &Path) -> Result<Auth, ConfigError> {
    let Some(mut section) = webhook.section("auth")? else { return Ok(Auth::None) };
    let kind: String = section.require("kind")?;
    let auth = match kind.as_str() {
        "none" => Auth::None,
        "basic" => {
            Auth::Basic { username: section.require("username")?, password: secret(&mut section, "password", "password_file", folder)? }
        }
        "bearer" => Auth::Bearer { token: secret(&mut section, "token", "token_file", folder)? },
        "api_key" => {
            let header = section.or("header", "X-API-Key".to_owned())?;
            let header = HeaderName::new(&header).map_err(|invalid| section.error("header", invalid))?;
            Auth::ApiKey { header, key: secret(&mut section, "key", "key_file", folder)? }
        }
        _ => {
            return Err(
                section.error("kind", format!("{kind:?} isn't known here, expected \"none\", \"basic\", \"bearer\" or \"api_key\""))
            );
        }
    };
    section.finish()?;
    Ok(auth)
}

/// A secret stands in the file or in a file of its own.
fn secret(section: &mut Section, name: &'static str, file: &'static str, folder: &Path) -> Result<Secret, ConfigError> {
    optional_secret(section, name, file, folder)?
        .ok_or_else(|| section.error(name, format!("it is missing: {name} = \"…\", or {file} = \"path\"")))
}

fn optional_secret(section: &mut Section, name: &'static str, file: &'static str, folder: &Path) -> Result<Option<Secret>, ConfigError> {
    let (here, there) = (section.get::<String>(name)?, section.get::<String>(file)?);
    match (here, there) {
        (Some(_), Some(_)) => Err(section.error(file, format!("{name} is there too: give one of the two"))),
        (Some(text), None) => Ok(Some(Secret::new(&text))),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let path = folder.join(path);
            let text = fs::read_to_string(&path).map_err(|error| section.error(file, format!("can't read {}: {error}", path.display())))?;
            // Editors end a file with a newline.
            let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
            Ok(Some(Secret::new(text)))
        }
    }
}

fn signing_secret(section: &mut Section, folder: &Path) -> Result<Option<Secret>, ConfigError> {
    let Some(secret) = optional_secret(section, "secret", "secret_file", folder)? else { return Ok(None) };
    if pushline_deliver::is_signing_secret(&secret) { Ok(Some(secret)) } else { Err(section.error("secret", Invalid::SigningSecret)) }
}

fn group(section: &mut Section, folder: &Path, builder: &mut RegistryBuilder) -> Result<(), ConfigError> {
    let Parsed(org): Parsed<Organisation> = section.require("org")?;
    let name: String = section.require("name")?;
    let id = GroupId::new(&org, &name).map_err(|invalid| section.error("name", invalid))?;
    let webhook: Option<String> = section.get("webhook")?;
    let default = section.or("default", false)?;
    builder.group(id.clone(), webhook.as_deref(), default).map_err(|invalid| match &invalid {
        Invalid::Twice { what: "group", .. } => section.error("name", &invalid),
        Invalid::Twice { .. } => section.error("default", &invalid),
        Invalid::Missing { .. } => section.error("webhook", &invalid),
        _ => section.error_here(&invalid),
    })?;
    for Parsed(device) in section.list::<Parsed<Iccid>>("devices")?.unwrap_or_default() {
        builder.device(&id, device).map_err(|invalid| section.error("devices", invalid))?;
    }
    if let Some(file) = section.get::<String>("devices_file")? {
        devices_file(section, &folder.join(file), &id, builder)?;
    }
    Ok(())
}

/// One ICCID a line; empty lines and those that begin with `#` are passed over.
fn devices_file(section: &Section, path: &Path, group: &GroupId, builder: &mut RegistryBuilder) -> Result<(), ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|error| section.error("devices_file", format!("can't read {}: {error}", path.display())))?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let added = line.parse().and_then(|device| builder.device(group, device));
        added.map_err(|invalid| ConfigError {
            place: Place::Line(path.display().to_string(), number + 1),
            field: format!("a device of {group}"),
            problem: invalid.to_string(),
        })?;
    }
    Ok(())
}
