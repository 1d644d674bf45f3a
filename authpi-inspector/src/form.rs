//! Queries and forms.

use url::form_urlencoded;

/// The members of a query or of a form, in order.
#[derive(Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn parse(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The first value of `name`, without surrounding white space; `None` if it is empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        values(&self.0, name).next()
    }

    /// All members that are not empty.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        let members = self.0.iter();
        members
            .map(|(name, value)| (name.as_str(), value.trim()))
            .filter(|(_, value)| !value.is_empty())
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The values of `name` that are not empty.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        values(&self.0, name).map(str::to_owned).collect()
    }
}

fn values<'a>(members: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    let named = members.iter().filter(move |(found, _)| found == name);
    named
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

/// `path` with a query of the members that have a value.
pub(crate) fn link(path: &str, query: &[(&str, Option<&str>)]) -> String {
    let mut encoder = form_urlencoded::Serializer::new(String::new());
    for (name, value) in query {
        if let Some(value) = value {
            encoder.append_pair(name, value);
        }
    }
    match encoder.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_members_count_as_absent() {
        let form = Form::parse(b"a=+&b=1&b=&b=%C3%A4&c");
        assert_eq!(form.get("a"), None);
        assert_eq!(form.all("b"), ["1", "ä"]);
        assert_eq!((form.text("c"), form.text("d")), Default::default());
        assert_eq!(
            link("/x", &[("a", None), ("b", Some("ä&"))]),
            "/x?b=%C3%A4%26"
        );
        assert_eq!(link("/x", &[("a", None)]), "/x");
    }
}
