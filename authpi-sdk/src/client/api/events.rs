//! The account's event log.

use jiff::Timestamp;

use super::{EventAggregate, LoggedEvent, spec::millis};
use crate::{
    RawJson,
    client::transport::{
        Attempt, Built, Call, Client, Error, Operation, Page, Paged, Reply, WithETag,
        call::sealed::{PageParams, ToRequest},
        check_ids,
        page::PageWire,
    },
    event::{EventType, Subject},
    generated::api::{
        operations,
        types::{EventAggregateResponse, EventResponse},
    },
    json,
};

/// The same accessors as those of a delivered [`Event`](crate::event::Event).
impl LoggedEvent {
    /// The event's type.
    pub fn event_type(&self) -> EventType {
        EventType::from(self.r#type.as_str())
    }

    /// When the event happened; `None` if `timestamp` is outside of the years −9999 to 9999.
    pub fn time(&self) -> Option<Timestamp> {
        self.timestamp.timestamp().ok()
    }

    /// The subject of the event; empty if the log has none, or if it is not an object of ids.
    pub fn subject(&self) -> Subject {
        let raw = self.subject.as_ref();
        raw.and_then(|raw| json::read(raw.get()).ok())
            .unwrap_or_default()
    }
}

/// The event log of an account: see [`Client::events`].
#[derive(Clone, Debug)]
pub struct Events {
    client: Client,
}

impl Client {
    /// The account's event log. It also contains events that no webhook delivered. AuthPI does not
    /// document how long it keeps them.
    pub fn events(&self) -> Events {
        Events {
            client: self.clone(),
        }
    }
}

impl Events {
    /// Lists events, page by page. AuthPI does not document the order.
    pub fn list(&self) -> Call<ListEvents> {
        Call::new(
            &self.client,
            ListEvents {
                filter: Filter::default(),
                limit: None,
                cursor: None,
            },
        )
    }

    /// The same list with the raw JSON of each event.
    pub(crate) fn list_as_written(&self) -> Call<ListAsWritten> {
        Call::new(&self.client, ListAsWritten(self.list().operation))
    }

    /// Returns one event.
    pub fn get(&self, event_id: impl Into<String>) -> Call<GetEvent> {
        Call::new(
            &self.client,
            GetEvent {
                event_id: event_id.into(),
            },
        )
    }

    /// Counts events: one total, a time series with [`interval`](Call::interval), groups with
    /// [`group_by`](Call::group_by).
    pub fn aggregate(&self) -> Call<AggregateEvents> {
        let filter = Filter::default();
        Call::new(
            &self.client,
            AggregateEvents {
                filter,
                group_by: None,
                interval: None,
                count_unique: None,
            },
        )
    }
}

#[derive(Clone, Debug, Default)]
struct Filter {
    issuer_id: Option<String>,
    user_id: Option<String>,
    client_id: Option<String>,
    event_types: Vec<EventType>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Filter {
    fn check(&self) -> Result<(), Error> {
        if self
            .event_types
            .iter()
            .any(|event_type| event_type.as_str().contains(','))
        {
            return Err(Error::invalid_argument("an event type contains a comma"));
        }
        Ok(())
    }

    fn event_types(&self) -> Option<String> {
        (!self.event_types.is_empty()).then(|| {
            self.event_types
                .iter()
                .map(EventType::as_str)
                .collect::<Vec<_>>()
                .join(",")
        })
    }
}

/// The filters that both operations share.
macro_rules! filters {
    ($operation:ty) => {
        impl Call<$operation> {
            /// Only events about this issuer.
            pub fn issuer(mut self, issuer_id: impl Into<String>) -> Self {
                self.operation.filter.issuer_id = Some(issuer_id.into());
                self
            }

            /// Only events about this user.
            pub fn user(mut self, user_id: impl Into<String>) -> Self {
                self.operation.filter.user_id = Some(user_id.into());
                self
            }

            /// Only events about this client.
            pub fn client(mut self, client_id: impl Into<String>) -> Self {
                self.operation.filter.client_id = Some(client_id.into());
                self
            }

            /// Only events of these types; all types if the list is empty.
            pub fn event_types(mut self, event_types: impl IntoIterator<Item = EventType>) -> Self {
                self.operation.filter.event_types = event_types.into_iter().collect();
                self
            }

            /// Only events after this time, to the millisecond. Assumed: the time itself is
            /// excluded.
            pub fn after(mut self, after: Timestamp) -> Self {
                self.operation.filter.after = Some(after);
                self
            }

            /// Only events before this time, to the millisecond. Assumed: the time itself is
            /// excluded.
            pub fn before(mut self, before: Timestamp) -> Self {
                self.operation.filter.before = Some(before);
                self
            }
        }
    };
}

filters!(ListEvents);
filters!(AggregateEvents);

impl Call<ListAsWritten> {
    pub(crate) fn narrowed(
        mut self,
        types: Vec<EventType>,
        after: Timestamp,
        before: Option<Timestamp>,
    ) -> Self {
        let filter = &mut self.operation.0.filter;
        (filter.event_types, filter.after, filter.before) = (types, Some(after), before);
        self
    }
}

/// `GET /events`: see [`Events::list`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListEvents {
    filter: Filter,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Operation for ListEvents {
    type Output = Page<LoggedEvent>;
}

impl Paged for ListEvents {
    type Item = LoggedEvent;
}

impl PageParams for ListEvents {
    fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>) {
        (&mut self.limit, &mut self.cursor)
    }
}

impl ToRequest for ListEvents {
    type Wire = PageWire<LoggedEvent>;
    const OPERATION: operations::Operation = operations::EVENTS_LIST;

    fn check(&self) -> Result<(), Error> {
        self.filter.check()
    }

    fn request(&self, at: &Attempt<'_>) -> Built<PageWire<LoggedEvent>> {
        let types = self.filter.event_types();
        let request = at.api.events_list(
            at.account,
            millis(self.filter.after),
            millis(self.filter.before),
            self.filter.client_id.as_deref(),
            self.cursor.as_deref(),
            types.as_deref(),
            self.filter.issuer_id.as_deref(),
            self.limit.map(i64::from),
            self.filter.user_id.as_deref(),
        );
        Ok(request?.read_as())
    }

    fn read(reply: Reply<PageWire<LoggedEvent>>) -> Page<LoggedEvent> {
        reply.value.into()
    }
}

/// `GET /events`, with the raw JSON of each event: [`LoggedEvent`] omits members that are not
/// described and members with an unexpected type.
#[derive(Clone, Debug)]
pub(crate) struct ListAsWritten(ListEvents);

impl Operation for ListAsWritten {
    type Output = Page<RawJson>;
}

impl Paged for ListAsWritten {
    type Item = RawJson;
}

impl PageParams for ListAsWritten {
    fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>) {
        self.0.window()
    }
}

impl ToRequest for ListAsWritten {
    type Wire = PageWire<RawJson>;
    const OPERATION: operations::Operation = operations::EVENTS_LIST;

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn request(&self, at: &Attempt<'_>) -> Built<PageWire<RawJson>> {
        Ok(self.0.request(at)?.read_as())
    }

    fn read(reply: Reply<PageWire<RawJson>>) -> Page<RawJson> {
        reply.value.into()
    }
}

/// `GET /events/{event_id}`: see [`Events::get`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GetEvent {
    event_id: String,
}

impl Operation for GetEvent {
    type Output = WithETag<LoggedEvent>;
}

impl ToRequest for GetEvent {
    type Wire = EventResponse;
    const OPERATION: operations::Operation = operations::EVENTS_GET;

    fn check(&self) -> Result<(), Error> {
        check_ids([("event", &*self.event_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<EventResponse> {
        at.api.events_get(at.account, &self.event_id)
    }

    fn read(reply: Reply<EventResponse>) -> WithETag<LoggedEvent> {
        reply.tagged(|response| response.data)
    }
}

/// `GET /events/aggregate`: see [`Events::aggregate`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AggregateEvents {
    filter: Filter,
    group_by: Option<String>,
    interval: Option<String>,
    count_unique: Option<String>,
}

impl Call<AggregateEvents> {
    /// The member to group by. AuthPI does not document the values; names such as `type` or
    /// `user_id` are assumed.
    pub fn group_by(mut self, member: impl Into<String>) -> Self {
        self.operation.group_by = Some(member.into());
        self
    }

    /// The length of a bucket. AuthPI does not document the values; words such as `hour` or `day`
    /// are assumed.
    pub fn interval(mut self, interval: impl Into<String>) -> Self {
        self.operation.interval = Some(interval.into());
        self
    }

    /// The member whose distinct values are counted. AuthPI does not document the values; names
    /// such as `user_id` are assumed.
    pub fn count_unique(mut self, member: impl Into<String>) -> Self {
        self.operation.count_unique = Some(member.into());
        self
    }
}

impl Operation for AggregateEvents {
    type Output = EventAggregate;
}

impl ToRequest for AggregateEvents {
    type Wire = EventAggregateResponse;
    const OPERATION: operations::Operation = operations::EVENTS_AGGREGATE;

    fn check(&self) -> Result<(), Error> {
        self.filter.check()
    }

    fn request(&self, at: &Attempt<'_>) -> Built<EventAggregateResponse> {
        let types = self.filter.event_types();
        at.api.events_aggregate(
            at.account,
            millis(self.filter.after),
            millis(self.filter.before),
            self.filter.client_id.as_deref(),
            self.count_unique.as_deref(),
            types.as_deref(),
            self.group_by.as_deref(),
            self.interval.as_deref(),
            self.filter.issuer_id.as_deref(),
            self.filter.user_id.as_deref(),
        )
    }

    fn read(reply: Reply<EventAggregateResponse>) -> EventAggregate {
        reply.value.data
    }
}
