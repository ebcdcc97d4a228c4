//! The table: one row an endpoint. Source: the provider's API description and typed client of 2026-10-28, and its older
//! name for the types of payment methods.

use super::ApiVersion::{V2024_06_20, V2026_10_28};
use super::Kind::{Boolean, Either, Fields, Integer, List, Map, OneOf, Text};
use super::{Kind, Parameter, Row, may, must};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    CreateCustomer,
    UpdateCustomer,
    ReadCustomer,
    DeleteCustomer,
    ListCustomers,
    SearchIntents,
    CreateIntent,
    UpdateIntent,
    ConfirmIntent,
    CancelIntent,
    ReadIntent,
    ListIntents,
    CreateSetup,
    ConfirmSetup,
    ReadSetup,
    ListSetups,
    ReadMethod,
    AttachMethod,
    DetachMethod,
    CreateSession,
    ExpireSession,
    ReadSession,
    ListSessions,
    CreateRefund,
    ReadRefund,
    ListRefunds,
    ReadEvent,
    ListEvents,
    ReadCharge,
    ListCharges,
    ReadTransaction,
    ListTransactions,
    ReadDispute,
    ListDisputes,
}

const EXPAND: Parameter = may("expand", List(&Text));
const METADATA: Parameter = may("metadata", Map);
const ONLY_EXPAND: &[Parameter] = &[EXPAND];

const LIST: &[Parameter] = &[
    may("created", Either(&Integer, &Fields(TIMES))),
    may("ending_before", Text),
    EXPAND,
    may("limit", Integer),
    may("starting_after", Text),
];
const TIMES: &[Parameter] = &[may("gt", Integer), may("gte", Integer), may("lt", Integer), may("lte", Integer)];

/// The older version's name for it, and the newer one's.
const METHOD_TYPES: &[Parameter] = &[
    may("payment_method_types", List(&Text)).only(V2024_06_20),
    may("allowed_payment_method_types", List(&Text)).only(V2026_10_28),
];

const ADDRESS: Kind = Fields(&[
    may("city", Text),
    may("country", Text),
    may("line1", Text),
    may("line2", Text),
    may("postal_code", Text),
    may("state", Text),
]);

const CUSTOMER: &[Parameter] = &[
    may("address", ADDRESS),
    may("description", Text),
    may("email", Text),
    EXPAND,
    may("invoice_settings", Fields(&[may("default_payment_method", Text)])),
    METADATA,
    may("name", Text),
    may("phone", Text),
    may("preferred_locales", List(&Text)),
    may("shipping", Fields(&[may("address", ADDRESS), may("name", Text), may("phone", Text)])),
    may("tax_exempt", OneOf(&["exempt", "none", "reverse"])),
];

/// What a new intent and an update have in common.
const INTENT: &[Parameter] = &[
    may("capture_method", CAPTURE_METHOD),
    may("customer", Text),
    may("description", Text),
    EXPAND,
    METADATA,
    may("payment_method", Text),
    may("receipt_email", Text),
    may("setup_future_usage", OneOf(&["off_session", "on_session"])),
    may("shipping", SHIPPING),
    may("statement_descriptor", Text),
    may("statement_descriptor_suffix", Text),
];
const CAPTURE_METHOD: Kind = OneOf(&["automatic", "automatic_async", "manual"]);
const SHIPPING: Kind = Fields(&[
    may("address", ADDRESS),
    may("carrier", Text),
    may("name", Text),
    may("phone", Text),
    may("tracking_number", Text),
]);
const OFF_SESSION: Kind = Either(&Boolean, &OneOf(&["one_off", "recurring"]));
const AUTOMATIC_METHODS: Parameter = may(
    "automatic_payment_methods",
    Fields(&[may("allow_redirects", OneOf(&["always", "never"])), may("enabled", Boolean)]),
);

const SESSION: &[Parameter] = &[
    may("cancel_url", Text),
    may("client_reference_id", Text),
    may("currency", Text),
    may("customer", Text),
    may("customer_creation", OneOf(&["always", "if_required"])),
    may("customer_email", Text),
    EXPAND,
    may("expires_at", Integer),
    may("locale", OneOf(LOCALES)),
    METADATA,
    // Nothing says so in the description, yet there is no session without one.
    must("mode", OneOf(&["payment", "setup", "subscription"])),
    may("redirect_on_completion", OneOf(&["always", "if_required", "never"])),
    may("return_url", Text),
    may("setup_intent_data", Fields(&[may("description", Text), METADATA])),
    may("success_url", Text),
    may("ui_mode", OneOf(&["custom", "embedded", "hosted"])).only(V2024_06_20),
    may("ui_mode", OneOf(&["elements", "embedded_page", "form", "hosted_page"])).only(V2026_10_28),
];
const LOCALES: &[&str] = &[
    "auto", "bg", "cs", "da", "de", "el", "en", "en-GB", "es", "es-419", "et", "fi", "fil", "fr", "fr-CA", "hi-IN",
    "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "ms", "mt", "nb", "nl", "pl", "pt", "pt-BR", "ro", "ru", "sk",
    "sl", "sv", "th", "tr", "vi", "zh", "zh-HK", "zh-TW",
];

const fn row(
    endpoint: Endpoint,
    method: &'static str,
    path: &'static str,
    parameters: &'static [&'static [Parameter]],
) -> Row {
    Row { endpoint, method, path, parameters, not_played: "" }
}

impl Row {
    const fn without(self, not_played: &'static str) -> Self {
        Self { not_played, ..self }
    }
}

pub(super) static TABLE: &[Row] = &[
    // What charging needs comes first: it is looked for from the top.
    row(
        Endpoint::CreateIntent,
        "POST",
        "/v1/payment_intents",
        &[
            &[
                must("amount", Integer),
                must("currency", Text),
                may("confirm", Boolean),
                AUTOMATIC_METHODS,
                may("confirmation_method", OneOf(&["automatic", "manual"])),
                may("off_session", OFF_SESSION),
                may("return_url", Text),
            ],
            INTENT,
            METHOD_TYPES,
        ],
    )
    .without(
        "amount_details application_fee_amount confirmation_token customer_account error_on_requires_action \
         excluded_payment_method_types hooks mandate mandate_data on_behalf_of payment_details \
         payment_method_configuration payment_method_data payment_method_options radar_options transfer_data \
         transfer_group use_stripe_sdk",
    ),
    row(
        Endpoint::ConfirmIntent,
        "POST",
        "/v1/payment_intents/{id}/confirm",
        &[
            &[
                may("capture_method", CAPTURE_METHOD),
                EXPAND,
                may("off_session", OFF_SESSION),
                may("payment_method", Text),
                may("receipt_email", Text),
                may("return_url", Text),
                may("setup_future_usage", OneOf(&["off_session", "on_session"])),
                may("shipping", SHIPPING),
            ],
            METHOD_TYPES,
        ],
    )
    .without(
        "amount_details amount_to_confirm confirmation_token error_on_requires_action excluded_payment_method_types \
         hooks mandate mandate_data payment_details payment_method_data payment_method_options radar_options \
         use_stripe_sdk",
    ),
    row(Endpoint::ListIntents, "GET", "/v1/payment_intents", &[LIST, &[may("customer", Text)]])
        .without("customer_account"),
    row(
        Endpoint::SearchIntents,
        "GET",
        "/v1/payment_intents/search",
        &[&[EXPAND, may("limit", Integer), may("page", Text), must("query", Text)]],
    ),
    row(Endpoint::ReadIntent, "GET", "/v1/payment_intents/{id}", &[&[may("client_secret", Text), EXPAND]]),
    row(
        Endpoint::CancelIntent,
        "POST",
        "/v1/payment_intents/{id}/cancel",
        &[&[
            may("cancellation_reason", OneOf(&["abandoned", "duplicate", "fraudulent", "requested_by_customer"])),
            EXPAND,
        ]],
    ),
    row(
        Endpoint::CreateRefund,
        "POST",
        "/v1/refunds",
        &[&[
            may("amount", Integer),
            may("charge", Text),
            EXPAND,
            METADATA,
            may("payment_intent", Text),
            may("reason", OneOf(&["duplicate", "fraudulent", "requested_by_customer"])),
        ]],
    )
    .without("currency customer instructions_email origin refund_application_fee reverse_transfer"),
    row(Endpoint::ListRefunds, "GET", "/v1/refunds", &[LIST, &[may("charge", Text), may("payment_intent", Text)]]),
    row(Endpoint::ReadRefund, "GET", "/v1/refunds/{id}", &[ONLY_EXPAND]),
    row(
        Endpoint::UpdateIntent,
        "POST",
        "/v1/payment_intents/{id}",
        &[&[may("amount", Integer), may("currency", Text)], INTENT, METHOD_TYPES],
    )
    .without(
        "amount_details application_fee_amount customer_account excluded_payment_method_types hooks payment_details \
         payment_method_configuration payment_method_data payment_method_options transfer_data transfer_group",
    ),
    row(
        Endpoint::ListTransactions,
        "GET",
        "/v1/balance_transactions",
        &[LIST, &[may("currency", Text), may("source", Text), may("type", Text)]],
    )
    .without("payout"),
    row(Endpoint::ReadTransaction, "GET", "/v1/balance_transactions/{id}", &[ONLY_EXPAND]),
    row(Endpoint::CreateCustomer, "POST", "/v1/customers", &[CUSTOMER, &[may("payment_method", Text)]]).without(
        "balance business_name cash_balance individual_name invoice_prefix next_invoice_sequence source tax \
         tax_id_data test_clock validate",
    ),
    row(Endpoint::UpdateCustomer, "POST", "/v1/customers/{id}", &[CUSTOMER]).without(
        "balance business_name cash_balance default_source individual_name invoice_prefix next_invoice_sequence source \
         tax validate",
    ),
    row(Endpoint::ReadCustomer, "GET", "/v1/customers/{id}", &[ONLY_EXPAND]),
    row(Endpoint::DeleteCustomer, "DELETE", "/v1/customers/{id}", &[]),
    row(Endpoint::ListCustomers, "GET", "/v1/customers", &[LIST, &[may("email", Text)]]).without("test_clock"),
    row(
        Endpoint::CreateSetup,
        "POST",
        "/v1/setup_intents",
        &[
            &[
                AUTOMATIC_METHODS,
                may("confirm", Boolean),
                may("customer", Text),
                may("description", Text),
                EXPAND,
                METADATA,
                may("payment_method", Text),
                may("return_url", Text),
                may("usage", OneOf(&["off_session", "on_session"])),
            ],
            METHOD_TYPES,
        ],
    )
    .without(
        "attach_to_self confirmation_token customer_account excluded_payment_method_types flow_directions mandate_data \
         on_behalf_of payment_method_configuration payment_method_data payment_method_options single_use \
         use_stripe_sdk",
    ),
    row(
        Endpoint::ConfirmSetup,
        "POST",
        "/v1/setup_intents/{id}/confirm",
        &[&[EXPAND, may("payment_method", Text), may("return_url", Text)], METHOD_TYPES],
    )
    .without("confirmation_token mandate_data payment_method_data payment_method_options use_stripe_sdk"),
    row(Endpoint::ReadSetup, "GET", "/v1/setup_intents/{id}", &[&[may("client_secret", Text), EXPAND]]),
    row(
        Endpoint::ListSetups,
        "GET",
        "/v1/setup_intents",
        &[LIST, &[may("customer", Text), may("payment_method", Text)]],
    )
    .without("attach_to_self customer_account"),
    row(Endpoint::ReadMethod, "GET", "/v1/payment_methods/{id}", &[ONLY_EXPAND]),
    row(Endpoint::AttachMethod, "POST", "/v1/payment_methods/{id}/attach", &[&[must("customer", Text), EXPAND]])
        .without("customer_account"),
    row(Endpoint::DetachMethod, "POST", "/v1/payment_methods/{id}/detach", &[ONLY_EXPAND]),
    row(Endpoint::CreateSession, "POST", "/v1/checkout/sessions", &[SESSION, METHOD_TYPES]).without(
        "adaptive_pricing after_expiration allow_promotion_codes automatic_tax billing_address_collection \
         branding_settings consent_collection custom_fields custom_text customer_account customer_update discounts \
         excluded_payment_method_types integration_identifier invoice_creation line_items managed_payments \
         name_collection optional_items origin_context payment_intent_data payment_method_collection \
         payment_method_configuration payment_method_data payment_method_options permissions phone_number_collection \
         saved_payment_method_options shipping_address_collection shipping_options submit_type subscription_data \
         tax_id_collection wallet_options",
    ),
    row(Endpoint::ExpireSession, "POST", "/v1/checkout/sessions/{id}/expire", &[ONLY_EXPAND]),
    row(Endpoint::ReadSession, "GET", "/v1/checkout/sessions/{id}", &[ONLY_EXPAND]),
    row(
        Endpoint::ListSessions,
        "GET",
        "/v1/checkout/sessions",
        &[LIST, &[may("customer", Text), may("status", OneOf(&["complete", "expired", "open"]))]],
    )
    .without("customer_account customer_details payment_intent payment_link subscription"),
    row(Endpoint::ListEvents, "GET", "/v1/events", &[LIST, &[may("type", Text), may("types", List(&Text))]])
        .without("delivery_success"),
    row(Endpoint::ReadEvent, "GET", "/v1/events/{id}", &[ONLY_EXPAND]),
    row(Endpoint::ListCharges, "GET", "/v1/charges", &[LIST, &[may("customer", Text), may("payment_intent", Text)]])
        .without("transfer_group"),
    row(Endpoint::ReadCharge, "GET", "/v1/charges/{id}", &[ONLY_EXPAND]),
    row(Endpoint::ListDisputes, "GET", "/v1/disputes", &[LIST, &[may("charge", Text), may("payment_intent", Text)]]),
    row(Endpoint::ReadDispute, "GET", "/v1/disputes/{id}", &[ONLY_EXPAND]),
];
