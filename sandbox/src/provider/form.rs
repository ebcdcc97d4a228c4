//! Form-encoded parameters as they come over the wire: `metadata[order_id]=1`, `expand[]=customer`, `types[0]=card`.

use serde_json::{Map, Value};

/// The parameters of one request, decoded, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// `None` if the text is not form-encoded.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_urlencoded::from_str(text).ok().map(Self)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a parameter, an empty one too. The last of several counts.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A value that is there: an empty one unsets what it names.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// The table has seen to it that it is a number.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        self.get(name)?.parse().ok()
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// The members of a list, written `name[]` or `name[0]`.
    pub(crate) fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let is_member = move |rest: &str| rest.starts_with('[') && rest.ends_with(']');
        self.iter().filter(move |(found, _)| found.strip_prefix(name).is_some_and(is_member)).map(|(_, value)| value)
    }

    /// What stands below a name: `order_id` of `metadata[order_id]`.
    pub(crate) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(move |(found, value)| {
            let field = found.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
            Some((field, value))
        })
    }

    pub(crate) fn map(&self, name: &str) -> Map<String, Value> {
        let mut map = Map::new();
        self.merge_into(&mut map, name);
        map
    }

    /// As an update does it: an empty value takes its field away, an empty map all of them.
    pub(crate) fn merge_into(&self, map: &mut Map<String, Value>, name: &str) {
        if self.get(name) == Some("") {
            map.clear();
        }
        for (field, value) in self.fields(name) {
            match value {
                "" => drop(map.remove(field)),
                _ => drop(map.insert(field.to_owned(), value.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lists_and_maps_are_found_as_they_were_sent() {
        let form = Form::parse("a=1&a=2&types[]=card&kinds[0]=x&kinds[1]=y&metadata%5Border_id%5D=o-1&empty=").unwrap();
        assert_eq!((form.get("a"), form.get("b"), form.text("empty")), (Some("2"), None, None));
        assert_eq!(form.list("types").collect::<Vec<_>>(), ["card"]);
        assert_eq!(form.list("kinds").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(form.map("metadata")["order_id"], "o-1");
        let mut map = form.map("metadata");
        Form::parse("metadata[order_id]=&metadata[more]=2").unwrap().merge_into(&mut map, "metadata");
        assert_eq!(Value::Object(map.clone()), serde_json::json!({ "more": "2" }));
        Form::parse("metadata=").unwrap().merge_into(&mut map, "metadata");
        assert!(map.is_empty());
    }
}
