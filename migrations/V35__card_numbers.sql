-- Card numbers that a program has sent as the name of a payment method are erased wherever they were stored. Such a payment
-- method is unknown to the provider, so nothing was ever charged with one, and nothing will be: whoever used one is told that
-- their card was declined, as before. Of calls only those are changed that are over: an open one is repeated byte for byte.
update checkout_profiles set payment_method = 'card_number_erased' where payment_method ~ '^[0-9]{12,19}$';
update payments set payment_method = 'card_number_erased' where payment_method ~ '^[0-9]{12,19}$';
update payment_attempts
set body = regexp_replace(body, 'payment_method=[0-9]{12,19}(&|$)', 'payment_method=card_number_erased\1')
where operation = 'confirm' and state in ('SUCCEEDED', 'DECLINED', 'ACTION_REQUIRED', 'PROCESSING', 'REJECTED')
      and body ~ 'payment_method=[0-9]{12,19}(&|$)';
