//! `[[webhooks]]` and `[[groups]]`: the registry. Each table is read by itself, so that a mistake in one hides none in another.

use std::{collections::HashMap, path::PathBuf};

use pushline_deliver::{CertificateExpiry, InvalidTlsFile, TlsFiles};
use pushline_model::{GroupId, Iccid, Invalid, Organisation, Registry, RegistryBuilder, Tls, Webhook};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    mistakes::{Collector, Location, Mistake},
    read::Table,
    source::Source,
    values,
};

/// `[[groups]]`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupTable {
    pub(super) org: Organisation,
    #[serde(deserialize_with = "group_name")]
    pub(super) name: String,
    /// The name of a webhook.
    #[serde(default)]
    pub(super) webhook: Option<String>,
    /// Whether devices that no group lists belong to this one.
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default)]
    pub(super) devices: Vec<Iccid>,
    /// More devices, one a line.
    #[serde(default, skip_serializing, deserialize_with = "devices_file")]
    devices_file: Option<PathBuf>,
}

fn group_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if GroupId::is_valid_name(&name) { Ok(name) } else { Err(D::Error::custom(Invalid::GroupName(name))) }
}

fn devices_file<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    values::path(deserializer).map(Some)
}

impl GroupTable {
    pub(super) fn new(id: &GroupId, webhook: Option<&str>, default: bool, devices: Vec<Iccid>) -> Self {
        let org = id.org().parse().expect("a group of the registry has an organisation");
        Self { org, name: id.name().to_owned(), webhook: webhook.map(str::to_owned), default, devices, devices_file: None }
    }
}

/// The certificates of webhooks: the name of each webhook that has any, and what of them expires first.
pub(crate) type Certificates = Vec<(String, CertificateExpiry)>;

/// Takes both lists out of the document and reads them, and the certificates that they name. Where there are mistakes, the registry is good for
/// nothing.
pub(super) fn read(root: &mut DeTable<'_>, source: &Source, mistakes: &mut Collector) -> (Registry, Certificates) {
    let mut reader =
        Reader { source, mistakes, builder: RegistryBuilder::default(), certificates: Certificates::new(), tls_files: HashMap::new() };
    let mut webhooks = reader.tables(root, "webhooks");
    let mut groups = reader.tables(root, "groups");
    let names = reader.webhooks(&mut webhooks);
    reader.groups(&mut groups, &names);
    (reader.builder.build(), reader.certificates)
}

struct Reader<'a> {
    source: &'a Source,
    mistakes: &'a mut Collector,
    builder: RegistryBuilder,
    certificates: Certificates,
    /// Many webhooks may name the same files.
    tls_files: HashMap<Tls, Result<Option<CertificateExpiry>, InvalidTlsFile>>,
}

impl<'a> Reader<'a> {
    /// The tables of a list.
    fn tables<'i>(&mut self, root: &mut DeTable<'i>, name: &str) -> Vec<Table<'a, 'i>> {
        let Some((key, value)) = root.remove_entry(name) else { return Vec::new() };
        let offset = self.source.field_offset(&key, &value);
        let DeValue::Array(items) = value.into_inner() else {
            self.mistakes.push(self.source.mistake(offset, name.to_owned(), format!("expected a list of tables: [[{name}]]")));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for (index, value) in items.into_iter().enumerate() {
            let table = Table::new(format!("{name}[{index}]"), value, self.source);
            if table.table().is_some() {
                tables.push(table);
            } else {
                let offset = table.value.span().start;
                self.mistakes.push(self.source.mistake(offset, table.path, format!("it is no table, expected [[{name}]]")));
            }
        }
        tables
    }

    /// Reads the webhooks; the result has their names, those of webhooks with mistakes too, and where each stands first.
    fn webhooks(&mut self, tables: &mut [Table<'a, '_>]) -> HashMap<String, usize> {
        let mut names: HashMap<String, usize> = HashMap::with_capacity(tables.len());
        for table in tables {
            let before = self.mistakes.len();
            let offset = table.offset("name");
            let name = table.text("name").map(str::to_owned);
            let first = name.map(|name| *names.entry(name).or_insert(offset));
            let Some(mut webhook) = table.read::<Webhook>(self.mistakes, |_| false) else { continue };
            if let Some(first) = first.filter(|first| *first != offset && !table.is_mended("name")) {
                let problem = format!("duplicate webhook name {:?} (first defined in line {})", webhook.name, self.source.line(first));
                table.mistake(self.mistakes, &["name"], problem);
            }
            webhook.tls = std::mem::take(&mut webhook.tls).with_paths(|path| self.source.path(path));
            for invalid in webhook.validate() {
                let path: Vec<&str> = [invalid.field].into_iter().chain(invalid.part).collect();
                table.mistake(self.mistakes, &path, invalid.problem.to_string());
            }
            self.signing_secrets(table, &webhook);
            self.tls_files(table, &webhook);
            if self.mistakes.len() == before
                && let Err(invalid) = self.builder.webhook(webhook)
            {
                table.mistake(self.mistakes, &["name"], invalid.to_string());
            }
        }
        names
    }

    /// A secret isn't shown, so its number tells which of them is wrong.
    fn signing_secrets(&mut self, table: &Table<'a, '_>, webhook: &Webhook) {
        if webhook.secret.as_ref().is_some_and(|secret| !pushline_deliver::is_signing_secret(secret)) {
            table.mistake(self.mistakes, &["secret"], Invalid::SigningSecret.to_string());
        }
        for (index, _) in webhook.secrets.iter().enumerate().filter(|(_, secret)| !pushline_deliver::is_signing_secret(secret)) {
            let problem = format!("secret {} of {}: {}", index + 1, webhook.secrets.len(), Invalid::SigningSecret);
            table.mistake(self.mistakes, &["secrets"], problem);
        }
    }

    fn tls_files(&mut self, table: &Table<'a, '_>, webhook: &Webhook) {
        let read = || TlsFiles::read(&webhook.tls).map(|files| files.expiry);
        match self.tls_files.entry(webhook.tls.clone()).or_insert_with(read) {
            Ok(expiry) => self.certificates.extend(expiry.clone().map(|expiry| (webhook.name.clone(), expiry))),
            Err(invalid) => table.mistake(self.mistakes, &["tls", invalid.field], invalid.problem.clone()),
        }
    }

    fn groups(&mut self, tables: &mut [Table<'a, '_>], webhooks: &HashMap<String, usize>) {
        let mut ids: HashMap<GroupId, usize> = HashMap::with_capacity(tables.len());
        let mut defaults: HashMap<Organisation, (GroupId, usize)> = HashMap::new();
        for index in 0..tables.len() {
            let (earlier, rest) = tables.split_at_mut(index);
            let Some(table) = rest.first_mut() else { continue };
            let Some(group) = table.read::<GroupTable>(self.mistakes, |_| false) else { continue };
            // What stands in for a mistake in its key is another group's.
            let is_named = !table.is_mended("org") && !table.is_mended("name");
            let Some(id) = GroupId::new(&group.org, &group.name).ok().filter(|_| is_named) else { continue };
            let is_new = !ids.contains_key(&id);
            let first = *ids.entry(id.clone()).or_insert_with(|| table.offset("name"));
            if !is_new {
                let line = self.source.line(first);
                table.mistake(self.mistakes, &["name"], format!("duplicate group {:?} (first defined in line {line})", id.key()));
            }
            if group.default && is_new {
                let (first, offset) = defaults.entry(group.org.clone()).or_insert_with(|| (id.clone(), table.offset("default")));
                if *first != id {
                    let (org, first, line) = (id.org(), first.key(), self.source.line(*offset));
                    let problem = format!("organisation {org:?} has a default group already: {first:?} (line {line})");
                    table.mistake(self.mistakes, &["default"], problem);
                }
            }
            if let Some(webhook) = group.webhook.as_ref().filter(|webhook| !webhooks.contains_key(*webhook)) {
                table.mistake(self.mistakes, &["webhook"], Invalid::Missing { what: "webhook", name: webhook.clone() }.to_string());
            }
            // Once there is a mistake, the registry is only asked which devices it has.
            let webhook = group.webhook.as_deref().filter(|_| self.mistakes.len() == 0);
            if is_new && let Err(invalid) = self.builder.group(id.clone(), webhook, group.default && self.mistakes.len() == 0) {
                table.mistake(self.mistakes, &["name"], invalid.to_string());
            }
            self.devices(table, earlier, &group, &id);
        }
    }

    fn devices(&mut self, table: &Table<'a, '_>, earlier: &[Table<'a, '_>], group: &GroupTable, id: &GroupId) {
        for iccid in &group.devices {
            if let Err(invalid) = self.builder.device(id, *iccid) {
                let problem = self.clash(&invalid, id, iccid, earlier, table);
                let offset = positions(table, iccid).last().unwrap_or_else(|| table.offset("devices"));
                self.mistakes.push(self.source.mistake(offset, format!("{}.devices", table.path), problem));
            }
        }
        let Some(path) = group.devices_file.as_ref().map(|path| self.source.path(path)) else { return };
        let text = match self.source.read_text(&path) {
            Ok(text) => text,
            Err(error) => return table.mistake(self.mistakes, &["devices_file"], error.to_string()),
        };
        // One ICCID a line; empty lines and those that begin with `#` are passed over.
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (number, line) in lines {
            let problem = match line.parse::<Iccid>() {
                Err(invalid) => invalid.to_string(),
                Ok(iccid) => match self.builder.device(id, iccid) {
                    Ok(()) => continue,
                    Err(invalid) => self.clash(&invalid, id, &iccid, earlier, table),
                },
            };
            let place = Location::Line(path.display().to_string(), number + 1);
            let offset = table.offset("devices_file");
            self.mistakes.push(Mistake { offset, place, field: format!("a device of {id}"), problem });
        }
    }

    /// Names the group that lists a device first, and the line where it does, if that is in the configuration file.
    fn clash(&self, invalid: &Invalid, id: &GroupId, iccid: &Iccid, earlier: &[Table<'a, '_>], table: &Table<'a, '_>) -> String {
        let Some(first) = self.builder.group_of(id.org(), iccid) else { return invalid.to_string() };
        let is_first = |table: &&Table<'a, '_>| table.text("org") == Some(first.org()) && table.text("name") == Some(first.name());
        let mut places = earlier.iter().chain([table]).filter(is_first).flat_map(|table| positions(table, iccid));
        let line = places.next().map_or(String::new(), |offset| format!(" (line {})", self.source.line(offset)));
        format!("{invalid}: group {:?} lists it already{line}", first.key())
    }
}

/// Where a group's table lists a device.
fn positions(table: &Table<'_, '_>, iccid: &Iccid) -> impl Iterator<Item = usize> {
    let text = iccid.to_string();
    let devices = table.table().and_then(|table| table.get("devices")).and_then(|devices| devices.get_ref().as_array());
    let is_it = move |item: &&Spanned<DeValue<'_>>| item.get_ref().as_str() == Some(text.as_str());
    devices.into_iter().flat_map(|devices| devices.iter()).filter(is_it).map(|item| item.span().start).collect::<Vec<_>>().into_iter()
}
