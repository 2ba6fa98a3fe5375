# Run by `terraform test`: the provider is a mock, so only the module's own reasoning is shown.

mock_provider "google" {}

variables {
  cloudq         = jsondecode(file("tests/cloudq.json")).cloudq
  project        = "shop-production"
  project_number = "123"
  functions      = { thumbs = { target = "https://thumbs.run.app/run", identity = "push@shop-production.iam.gserviceaccount.com" } }
}

run "every_part_is_a_topic_with_a_subscription" {
  command = plan

  assert {
    condition     = toset(keys(google_pubsub_subscription.main)) == toset(["audit/normal", "mail/high", "mail/normal", "thumbs/normal"])
    error_message = "One for each priority."
  }
  assert {
    condition     = keys(google_pubsub_subscription.dead) == keys(google_pubsub_topic.dead)
    error_message = "A dead topic without a subscription keeps nothing."
  }
  assert {
    condition     = google_pubsub_subscription.main["audit/normal"].enable_message_ordering
    error_message = "Ordered."
  }
}

run "nothing_expires" {
  command = plan

  assert {
    condition     = alltrue([for each in concat(values(google_pubsub_subscription.main), values(google_pubsub_subscription.delay), values(google_pubsub_subscription.dead)) : each.expiration_policy[0].ttl == ""])
    error_message = "Without the block a subscription is deleted after 31 idle days."
  }
}

run "only_a_push_has_a_retry_policy" {
  command = plan

  assert {
    condition     = [for key, each in google_pubsub_subscription.main : key if length(each.retry_policy) > 0] == ["thumbs/normal"]
    error_message = "On a pull it would be added to what a worker holds; on a push redelivery would be immediate without."
  }
  assert {
    condition     = google_pubsub_subscription.main["thumbs/normal"].push_config[0].oidc_token[0].audience == "https://thumbs.run.app/run"
    error_message = "The audience is the target, unless it is named."
  }
}

run "the_net_holds_only_with_its_grants" {
  command = plan

  assert {
    condition     = google_pubsub_subscription.main["mail/high"].dead_letter_policy[0].max_delivery_attempts == 28
    error_message = "max(3 x 8, 8 + 20)."
  }
  assert {
    condition     = toset([for each in google_pubsub_topic_iam_member.moves_dead : "${each.role} ${each.member}"]) == toset(["roles/pubsub.publisher serviceAccount:service-123@gcp-sa-pubsub.iam.gserviceaccount.com"])
    error_message = "Pub/Sub itself publishes to the dead topic."
  }
  assert {
    condition     = keys(google_pubsub_subscription_iam_member.moves_dead) == keys(google_pubsub_subscription.main)
    error_message = "Pub/Sub itself takes from every queue that has a net."
  }
  assert {
    condition     = alltrue([for each in google_pubsub_subscription.delay : length(each.dead_letter_policy) == 0])
    error_message = "What waits for its time is looked at often."
  }
}

run "a_key_of_your_own_needs_a_grant" {
  command = plan

  variables {
    encryption_key = { id = "projects/p/locations/l/keyRings/r/cryptoKeys/k" }
  }

  assert {
    condition     = alltrue([for topic in google_pubsub_topic.main : topic.kms_key_name == var.encryption_key.id]) && length(google_kms_crypto_key_iam_member.service_agent) == 1
    error_message = "Every topic, and Pub/Sub may use it."
  }
}

run "alarms_are_on_by_default" {
  command = plan

  assert {
    condition     = length(google_monitoring_alert_policy.oldest) == 4 && length(google_monitoring_alert_policy.dead) == 3
    error_message = "One for each queue, one for each dead part."
  }
}

run "exactly_once_cannot_be_pushed" {
  command = plan

  variables {
    exactly_once = true
  }

  expect_failures = [terraform_data.description]
}

run "a_target_without_tls_is_refused" {
  command = plan

  variables {
    functions = { thumbs = { target = "http://thumbs.run.app/run", identity = "push@shop-production.iam.gserviceaccount.com" } }
  }

  expect_failures = [google_pubsub_subscription.main]
}

run "a_name_is_not_a_number" {
  command = plan

  variables {
    project_number = "shop-production"
  }

  expect_failures = [var.project_number]
}

run "a_description_that_was_changed_by_hand_is_refused" {
  command = plan

  variables {
    cloudq = merge(jsondecode(file("tests/cloudq.json")).cloudq, { namespace = "other" })
  }

  expect_failures = [var.cloudq]
}
