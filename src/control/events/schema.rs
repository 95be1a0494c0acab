//! How a message of the event socket is described to programs.

use super::{Event, Notice};
use std::borrow::Cow;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        AllOfBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Ref, RefOr, Schema, SchemaFormat, Type,
    },
};

/// An event or a notice with its number and its time. There is no value of it: `numbered` writes them as text.
pub enum EventMessage {}

impl PartialSchema for EventMessage {
    fn schema() -> RefOr<Schema> {
        let time = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        let numbers = ObjectBuilder::new()
            .property("seq", u64::schema())
            .required("seq")
            .property("at", time)
            .required("at");
        let what = OneOfBuilder::new()
            .item(Ref::from_schema_name(Event::name()))
            .item(Ref::from_schema_name(Notice::name()));
        AllOfBuilder::new()
            .description(Some("`seq` is the number of the event; of a notice, of the event before it."))
            .item(numbers)
            .item(what)
            .into()
    }
}

impl ToSchema for EventMessage {
    fn name() -> Cow<'static, str> {
        "EventMessage".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Event::schemas(schemas);
        Notice::schemas(schemas);
        schemas.push((Event::name().into(), Event::schema()));
        schemas.push((Notice::name().into(), Notice::schema()));
    }
}
