//! The deliveries of a webhook.

use jiff::Timestamp;

use super::{
    DeliveryStatus, RedeliverFailedResult, RedeliveredWebhookDelivery, WebhookDelivery,
    spec::millis, webhooks::Webhooks,
};
use crate::{
    UnixMillis,
    client::transport::{
        Attempt, Built, Call, Conditional, Error, Keyed, Operation, Page, Paged, Reply, WithReplay,
        call::sealed::{PageParams, ToRequest},
        check_ids,
        page::PageWire,
    },
    event::EventType,
    generated::api::{
        operations,
        types::{
            RedeliverFailedInput, RedeliverFailedResultResponse, RedeliveredWebhookDeliveryResponse,
        },
    },
};

impl Webhooks {
    /// Lists a webhook's deliveries, page by page: one record per event, which covers all attempts.
    pub fn deliveries(&self, webhook_id: impl Into<String>) -> Call<ListDeliveries> {
        let webhook_id = webhook_id.into();
        let filter = Filter::default();
        Call::new(
            &self.client,
            ListDeliveries {
                webhook_id,
                filter,
                status: None,
                limit: None,
                cursor: None,
            },
        )
    }

    /// Sends one delivery again and waits for this attempt's outcome.
    ///
    /// A refusal by the endpoint is not an error of this call: see `success` in the answer.
    pub fn redeliver(
        &self,
        webhook_id: impl Into<String>,
        delivery_id: impl Into<String>,
    ) -> Call<Redeliver> {
        Call::new(
            &self.client,
            Redeliver {
                webhook_id: webhook_id.into(),
                delivery_id: delivery_id.into(),
            },
        )
    }

    /// Sends a webhook's failed deliveries again: all of them, unless the call is filtered.
    ///
    /// AuthPI documents neither the filters nor the answer. The names of the filters and of the
    /// answer's members are assumed. AuthPI may wait for each attempt's outcome, so give this call
    /// a [`timeout`](Call::timeout) that fits the number of deliveries.
    pub fn redeliver_failed(&self, webhook_id: impl Into<String>) -> Call<RedeliverFailed> {
        Call::new(
            &self.client,
            RedeliverFailed {
                webhook_id: webhook_id.into(),
                filter: Filter::default(),
            },
        )
    }
}

#[derive(Clone, Debug, Default)]
struct Filter {
    event_type: Option<EventType>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

/// `GET /webhooks/{webhook_id}/deliveries`: see [`Webhooks::deliveries`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListDeliveries {
    webhook_id: String,
    filter: Filter,
    status: Option<DeliveryStatus>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Call<ListDeliveries> {
    /// Only deliveries with this status. AuthPI does not document the values; the variants of
    /// [`DeliveryStatus`] are assumptions.
    pub fn status(mut self, status: DeliveryStatus) -> Self {
        self.operation.status = Some(status);
        self
    }

    /// Only deliveries of events of this type.
    pub fn event_type(mut self, event_type: EventType) -> Self {
        self.operation.filter.event_type = Some(event_type);
        self
    }

    /// Only deliveries after this time, to the millisecond.
    pub fn after(mut self, after: Timestamp) -> Self {
        self.operation.filter.after = Some(after);
        self
    }

    /// Only deliveries before this time, to the millisecond.
    pub fn before(mut self, before: Timestamp) -> Self {
        self.operation.filter.before = Some(before);
        self
    }
}

impl Operation for ListDeliveries {
    type Output = Page<WebhookDelivery>;
}

impl Paged for ListDeliveries {
    type Item = WebhookDelivery;
}

impl PageParams for ListDeliveries {
    fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>) {
        (&mut self.limit, &mut self.cursor)
    }
}

impl ToRequest for ListDeliveries {
    type Wire = PageWire<WebhookDelivery>;
    const OPERATION: operations::Operation = operations::WEBHOOKS_LIST_DELIVERIES;

    fn check(&self) -> Result<(), Error> {
        check_ids([("webhook", &*self.webhook_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<PageWire<WebhookDelivery>> {
        let request = at.api.webhooks_list_deliveries(
            at.account,
            &self.webhook_id,
            millis(self.filter.after),
            millis(self.filter.before),
            self.cursor.as_deref(),
            self.filter.event_type.as_ref().map(EventType::as_str),
            self.limit.map(i64::from),
            self.status.as_ref().map(DeliveryStatus::as_str),
        );
        Ok(request?.read_as())
    }

    fn read(reply: Reply<PageWire<WebhookDelivery>>) -> Page<WebhookDelivery> {
        reply.value.into()
    }
}

/// `POST /webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver`: see [`Webhooks::redeliver`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Redeliver {
    webhook_id: String,
    delivery_id: String,
}

impl Operation for Redeliver {
    type Output = WithReplay<RedeliveredWebhookDelivery>;
}

impl Keyed for Redeliver {}

impl Conditional for Redeliver {}

impl ToRequest for Redeliver {
    type Wire = RedeliveredWebhookDeliveryResponse;
    const OPERATION: operations::Operation = operations::WEBHOOKS_REDELIVER;
    const WAITS_FOR_AN_ENDPOINT: bool = true;

    fn check(&self) -> Result<(), Error> {
        check_ids([
            ("webhook", &*self.webhook_id),
            ("delivery", &*self.delivery_id),
        ])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<RedeliveredWebhookDeliveryResponse> {
        let (webhook, delivery) = (&*self.webhook_id, &*self.delivery_id);
        at.api.webhooks_redeliver(
            at.account,
            webhook,
            delivery,
            at.idempotency_key,
            at.if_match,
        )
    }

    fn read(
        reply: Reply<RedeliveredWebhookDeliveryResponse>,
    ) -> WithReplay<RedeliveredWebhookDelivery> {
        reply.posted(|response| response.data)
    }
}

/// `POST /webhooks/{webhook_id}/redeliver`: see [`Webhooks::redeliver_failed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedeliverFailed {
    webhook_id: String,
    filter: Filter,
}

impl Call<RedeliverFailed> {
    /// Only deliveries of events of this type.
    pub fn event_type(mut self, event_type: EventType) -> Self {
        self.operation.filter.event_type = Some(event_type);
        self
    }

    /// Only deliveries created after this time, to the millisecond.
    pub fn after(mut self, after: Timestamp) -> Self {
        self.operation.filter.after = Some(after);
        self
    }

    /// Only deliveries created before this time, to the millisecond.
    pub fn before(mut self, before: Timestamp) -> Self {
        self.operation.filter.before = Some(before);
        self
    }
}

impl Call<RedeliverFailed> {
    /// Lists the same deliveries, with any status.
    pub(crate) fn same_deliveries(&self) -> Call<ListDeliveries> {
        let RedeliverFailed { webhook_id, filter } = self.operation.clone();
        self.beside(ListDeliveries {
            webhook_id,
            filter,
            status: None,
            limit: Some(100),
            cursor: None,
        })
    }
}

impl Operation for RedeliverFailed {
    type Output = WithReplay<RedeliverFailedResult>;
}

impl Keyed for RedeliverFailed {}

impl ToRequest for RedeliverFailed {
    type Wire = RedeliverFailedResultResponse;
    const OPERATION: operations::Operation = operations::WEBHOOKS_REDELIVER_FAILED;
    const WAITS_FOR_AN_ENDPOINT: bool = true;

    fn check(&self) -> Result<(), Error> {
        check_ids([("webhook", &*self.webhook_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<RedeliverFailedResultResponse> {
        let body = RedeliverFailedInput {
            after: self.filter.after.map(UnixMillis::from),
            before: self.filter.before.map(UnixMillis::from),
            event_type: self.filter.event_type.as_ref().map(ToString::to_string),
        };
        at.api
            .webhooks_redeliver_failed(at.account, &self.webhook_id, at.idempotency_key, &body)
    }

    fn read(reply: Reply<RedeliverFailedResultResponse>) -> WithReplay<RedeliverFailedResult> {
        reply.posted(|response| response.data)
    }
}
