//! Geolocation of addresses, from files in `MaxMind`'s format (`.mmdb`).

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use maxminddb::{MaxMindDbError, Reader};
use serde::{Deserialize, Serialize};

use crate::named_file;

/// Databases searched in order: `MaxMind` has cities and networks in two files.
#[derive(Clone)]
pub struct Geo(Box<[Arc<Database>]>);

/// A database file, held in memory whole, so that replacing it on disk is safe.
pub struct Database(Reader<Vec<u8>>);

/// Known data about a place. Data that the files lack is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Place {
    /// Country code of two letters, ISO 3166-1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Continent code of two letters: `EU`, `NA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continent: Option<String>,
    /// City name in English.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// Region: the part of ISO 3166-2 after the country, `BY` of `DE-BY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    /// Time zone such as `Europe/Berlin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Number of the autonomous system; its operator is `organization`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// Fields read from a record of a country, city or network database.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Record<'a> {
    #[serde(borrow)]
    country: CountryRecord<'a>,
    #[serde(borrow)]
    continent: Continent<'a>,
    #[serde(borrow)]
    city: NamedRecord<'a>,
    #[serde(borrow)]
    subdivisions: Vec<CountryRecord<'a>>,
    #[serde(borrow)]
    location: Location<'a>,
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CountryRecord<'a> {
    iso_code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Continent<'a> {
    code: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedRecord<'a> {
    #[serde(borrow)]
    names: Names<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Names<'a> {
    en: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Location<'a> {
    latitude: Option<f64>,
    longitude: Option<f64>,
    time_zone: Option<&'a str>,
}

/// Size limit of a database, in bytes: those of cities have about 60 MB.
const MAX_LEN: u64 = 1 << 30;

impl Database {
    pub fn read(path: &Path) -> Result<Self, MaxMindDbError> {
        Reader::from_source(named_file::read(path, MAX_LEN)?).map(Self)
    }
}

impl Geo {
    pub fn new(databases: Vec<Arc<Database>>) -> Self {
        Self(databases.into())
    }

    /// Returns the place of an address; `None` if no file knows it.
    pub fn place(&self, address: IpAddr) -> Option<Place> {
        let mut place = None;
        for database in &self.0 {
            let record = database.0.lookup(address);
            match record.and_then(|network| network.decode::<Record<'_>>()) {
                Ok(Some(record)) => place.get_or_insert_with(Place::default).add(&record),
                Ok(None) => {}
                Err(error) => log::debug!(error:%; "cannot read the record of an address"),
            }
        }
        place
    }
}

impl Place {
    /// Adds data that is still missing.
    fn add(&mut self, record: &Record<'_>) {
        let add = |known: &mut Option<String>, value: Option<&str>| {
            if known.is_none() {
                *known = value.map(str::to_owned);
            }
        };
        add(&mut self.country, record.country.iso_code);
        add(&mut self.continent, record.continent.code);
        add(&mut self.city, record.city.names.en);
        let region = record.subdivisions.first();
        add(&mut self.region, region.and_then(|part| part.iso_code));
        add(&mut self.timezone, record.location.time_zone);
        add(
            &mut self.organization,
            record.autonomous_system_organization,
        );
        self.latitude = self.latitude.or(record.location.latitude);
        self.longitude = self.longitude.or(record.location.longitude);
        self.asn = self.asn.or(record.autonomous_system_number);
    }
}

crate::opaque_debug!(Geo);

/// The place of one address, looked up on first use and shared by all clones.
#[derive(Clone, Debug)]
pub struct ClientLocation(Arc<LocationCell>);

#[derive(Debug)]
struct LocationCell {
    of: Option<(Arc<Geo>, IpAddr)>,
    /// The place as JSON.
    place: OnceLock<Option<Box<str>>>,
}

impl ClientLocation {
    pub fn new(geo: Arc<Geo>, address: IpAddr) -> Self {
        Self(Arc::new(LocationCell {
            of: Some((geo, address)),
            place: OnceLock::new(),
        }))
    }

    /// A place given as JSON, without a lookup.
    pub fn from_json(json: String) -> Self {
        Self(Arc::new(LocationCell {
            of: None,
            place: OnceLock::from(Some(json.into())),
        }))
    }

    /// Returns the place as JSON; `None` if no file knows the address.
    pub fn json(&self) -> Option<&str> {
        let look = || {
            let (geo, address) = self.0.of.as_ref()?;
            let json = serde_json::to_string(&geo.place(*address)?).ok()?;
            Some(json.into())
        };
        self.0.place.get_or_init(look).as_deref()
    }
}
