//! Pages: newest first, continued after the id of the last item.

use std::{collections::BTreeMap, ops::Bound};

use serde_json::{Value, json};

use crate::{
    error::{ApiError, Field},
    openapi::Parameters,
};

/// The requested page.
pub(crate) struct Page {
    limit: usize,
    cursor: Option<String>,
}

impl Page {
    /// From `limit` (default 50) and `cursor`.
    pub(crate) fn of(query: &Parameters) -> Self {
        let limit = query
            .get("limit")
            .and_then(Value::as_u64)
            .and_then(|limit| usize::try_from(limit).ok());
        Self {
            limit: limit.unwrap_or(50),
            cursor: query
                .get("cursor")
                .and_then(Value::as_str)
                .map(str::to_owned),
        }
    }

    /// The page's items that match `wanted`, converted by `show`; 400 if the cursor is not an id of
    /// this list.
    pub(crate) fn read<T>(
        &self,
        all: &BTreeMap<String, T>,
        wanted: impl Fn(&T) -> bool,
        show: impl Fn(&T) -> Value,
    ) -> Result<Value, ApiError> {
        let before = match &self.cursor {
            None => Bound::Unbounded,
            Some(cursor) if all.contains_key(cursor) => Bound::Excluded(cursor.as_str()),
            Some(_) => {
                let message = "is not a cursor of this list";
                return Err(ApiError::malformed(
                    format!("cursor: {message}"),
                    vec![Field::new("cursor", "invalid_value", message)],
                ));
            }
        };
        let mut rest = all
            .range::<str, _>((Bound::Unbounded, before))
            .rev()
            .filter(|(_, item)| wanted(item));
        let items: Vec<_> = rest.by_ref().take(self.limit).collect();
        let has_more = rest.next().is_some();
        let next_cursor = items.last().filter(|_| has_more).map(|(id, _)| id.as_str());
        Ok(json!({
            "data": items.iter().map(|(_, item)| show(item)).collect::<Vec<_>>(),
            "has_more": has_more,
            "next_cursor": next_cursor,
        }))
    }
}
