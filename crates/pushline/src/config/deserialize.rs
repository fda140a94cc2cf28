//! A serde format over the tree of a [`Source`]. What it adds to the `toml` crate's own: a refusal has its place and its field, a value from the
//! environment becomes what the field wants, and a field of type [`Secret`], or a list of them, may be given as the path of a file, under its name with
//! `_file`.

use std::fmt;

use pushline_model::Secret;
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};
use toml::{
    Spanned,
    de::{DeArray, DeString, DeTable, DeValue},
};

use super::{
    refusal::{Problem, Refusal, Step, words},
    source::Source,
};

/// A value, ready to be read as a type.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, 'i> {
    value: &'a DeValue<'i>,
    offset: usize,
    source: &'a Source,
}

impl<'a, 'i> Node<'a, 'i> {
    pub(super) fn new(value: &'a Spanned<DeValue<'i>>, source: &'a Source) -> Self {
        Self { value: value.get_ref(), offset: value.span().start, source }
    }

    /// The text of an environment variable: it becomes what is wanted.
    fn variable(&self) -> Option<&'a str> {
        self.value.as_str().filter(|_| self.source.variable(self.offset).is_some())
    }
}

macro_rules! parsed_from_a_variable {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            match self.variable().and_then(|text| text.trim().parse().ok()) {
                Some(value) => visitor.$visit(value),
                None => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_, '_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.value {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => visitor.visit_i64(number),
                Err(_) => Err(Refusal::other(format!("it is a huge number, expected {}", words(&visitor)))),
            },
            DeValue::Boolean(value) => visitor.visit_bool(*value),
            DeValue::Array(items) => visitor.visit_seq(Items { items, next: 0, source: self.source }),
            DeValue::Table(table) => visitor.visit_map(Fields::new(table, self.source, &[])),
            DeValue::Float(_) => Err(de::Error::invalid_type(Unexpected::Float(0.0), &visitor)),
            DeValue::Datetime(_) => Err(de::Error::invalid_type(Unexpected::Other("a date"), &visitor)),
        }
    }

    parsed_from_a_variable! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i64 deserialize_i16 visit_i64 deserialize_i32 visit_i64 deserialize_i64 visit_i64
        deserialize_u8 visit_u64 deserialize_u16 visit_u64 deserialize_u32 visit_u64 deserialize_u64 visit_u64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    /// From the environment a list is written with commas; nothing is an empty list.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let Some(text) = self.variable() else { return self.deserialize_any(visitor) };
        let item = |text: &str| Spanned::new(self.offset..self.offset, DeValue::String(text.trim().to_owned().into()));
        let items: DeArray<'_> = if text.trim().is_empty() { DeArray::new() } else { text.split(',').map(item).collect() };
        visitor.visit_seq(Items { items: &items, next: 0, source: self.source })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.value {
            DeValue::Table(table) => visitor.visit_map(Fields::new(table, self.source, fields)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.value {
            DeValue::String(text) => {
                let text: StrDeserializer<'_, Refusal> = text.as_ref().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => {
                let words: Vec<String> = variants.iter().map(|word| format!("{word:?}")).collect();
                let expected = words.join(" or ");
                self.deserialize_any(NoValue(&expected)).map(|never| match never {})
            }
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier ignored_any
    }
}

/// Refuses every type.
struct NoValue<'a>(&'a str);

impl Visitor<'_> for NoValue<'_> {
    type Value = std::convert::Infallible;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

struct Items<'a, 'i> {
    items: &'a DeArray<'i>,
    next: usize,
    source: &'a Source,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        let read = seed.deserialize(Node::new(item, self.source));
        read.map(Some).map_err(|refusal| refusal.within(Step::Item(index), item.span().start))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

struct Fields<'a, 'i> {
    table: &'a DeTable<'i>,
    entries: toml::map::Iter<'a, Spanned<DeString<'i>>, Spanned<DeValue<'i>>>,
    /// The entry whose value is read next, and the field whose secret it names a file of.
    current: Option<(Entry<'a, 'i>, Option<&'static str>)>,
    source: &'a Source,
    known: &'static [&'static str],
}

impl<'a, 'i> Fields<'a, 'i> {
    fn new(table: &'a DeTable<'i>, source: &'a Source, known: &'static [&'static str]) -> Self {
        Self { table, entries: table.iter(), current: None, source, known }
    }

    /// The field whose secret lies in the file that this one names, if it can be one.
    fn file_of(&self, name: &str) -> Option<&'static str> {
        let field = name.strip_suffix("_file")?;
        self.known.iter().find(|known| **known == field).copied().filter(|_| !self.known.contains(&name))
    }
}

impl<'de> MapAccess<'de> for Fields<'_, '_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name: &str = key.get_ref();
        let field = self.file_of(name);
        self.current = Some(((key, value), field));
        let within = |refusal: Refusal| refusal.within(Step::Field(name.to_owned()), key.span().start);
        if let Some(field) = field.filter(|field| self.table.contains_key(*field)) {
            return Err(within(Refusal::other(format!("{field} is there too: give one of the two"))));
        }
        let text: StrDeserializer<'_, Refusal> = field.unwrap_or(name).into_deserializer();
        seed.deserialize(text).map(Some).map_err(within)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refusal> {
        let ((key, value), field) = self.current.take().expect("serde reads a key before its value");
        let node = Node::new(value, self.source);
        let read = match field {
            None => seed.deserialize(node),
            Some(_) => seed.deserialize(SecretFile { node, name: key.get_ref(), known: self.known }),
        };
        let offset = self.source.field_offset(key, value);
        read.map_err(|refusal| unknown_within(refusal, value).within(Step::Field(key.get_ref().to_string()), offset))
    }
}

/// A type that refuses one of its fields after it has read them all names the field; its place is looked up here.
fn unknown_within(refusal: Refusal, value: &Spanned<DeValue<'_>>) -> Refusal {
    let (true, Problem::Unknown { name, .. }, Some(table)) = (refusal.path.is_empty(), &refusal.problem, value.get_ref().as_table()) else {
        return refusal;
    };
    let Some((key, _)) = find(table, name) else { return refusal };
    let (name, offset) = (key.get_ref().to_string(), key.span().start);
    refusal.within(Step::Field(name), offset)
}

/// A field by its name, or by its name with `_file`.
pub(super) fn find<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<Entry<'a, 'i>> {
    table.get_key_value(name).or_else(|| table.get_key_value(format!("{name}_file").as_str()))
}

/// The path of a file whose content is a [`Secret`], or one a line. Any other type isn't to be had from a file, and the field isn't known.
#[derive(Clone, Copy)]
struct SecretFile<'a, 'i> {
    node: Node<'a, 'i>,
    name: &'a str,
    known: &'static [&'static str],
}

impl<'de> Deserializer<'de> for SecretFile<'_, '_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refusal> {
        Err(Refusal::new(Problem::Unknown { name: self.name.to_owned(), known: self.known }))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        if name != Secret::SERDE_NAME {
            return self.deserialize_any(visitor);
        }
        let text: de::value::StringDeserializer<Refusal> = self.read()?.into_deserializer();
        visitor.visit_newtype_struct(text)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_seq(SecretLines { file: self, lines: None })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct
        enum identifier ignored_any
    }
}

impl SecretFile<'_, '_> {
    fn read(&self) -> Result<String, Refusal> {
        let path = <std::path::PathBuf as serde::Deserialize>::deserialize(self.node)?;
        let source = self.node.source;
        source.read_value(&source.path(&path)).map_err(|error| Refusal::other(error.to_string()))
    }
}

/// The lines of such a file. It is read when the first item turns out to be a secret.
struct SecretLines<'a, 'i> {
    file: SecretFile<'a, 'i>,
    lines: Option<std::vec::IntoIter<String>>,
}

/// The next of them.
struct SecretLine<'s, 'a, 'i>(&'s mut SecretLines<'a, 'i>);

impl<'de> SeqAccess<'de> for SecretLines<'_, '_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        if self.lines.as_ref().is_some_and(|lines| lines.len() == 0) {
            return Ok(None);
        }
        seed.deserialize(SecretLine(self)).map(Some)
    }
}

impl<'de> Deserializer<'de> for SecretLine<'_, '_, '_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.0.file.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        if name != Secret::SERDE_NAME {
            return self.deserialize_any(visitor);
        }
        if self.0.lines.is_none() {
            let text = self.0.file.read()?;
            let lines: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
            self.0.lines = Some(lines.into_iter());
        }
        let line = self.0.lines.as_mut().and_then(Iterator::next).ok_or_else(|| Refusal::other("the file is empty".to_owned()))?;
        let line: de::value::StringDeserializer<Refusal> = line.into_deserializer();
        visitor.visit_newtype_struct(line)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map
        struct enum identifier ignored_any
    }
}
