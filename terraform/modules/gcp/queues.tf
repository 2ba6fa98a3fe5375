locals {
  labels = { for name, queue in local.queues : name => merge(var.tags, {
    "cloudq-config" = queue.hash
    "cloudq-queue"  = lower(name)
  }) }
}

# Every part is a topic and one subscription of the same name.
resource "google_pubsub_topic" "main" {
  for_each = local.mains

  project      = var.project
  name         = each.value.name
  kms_key_name = try(var.encryption_key.id, null)
  labels       = local.labels[each.value.queue]

  depends_on = [google_kms_crypto_key_iam_member.service_agent]
}

resource "google_pubsub_topic" "delay" {
  for_each = local.queues

  project      = var.project
  name         = each.value.names.delay
  kms_key_name = try(var.encryption_key.id, null)
  labels       = local.labels[each.key]

  depends_on = [google_kms_crypto_key_iam_member.service_agent]
}

resource "google_pubsub_topic" "dead" {
  for_each = local.queues

  project      = var.project
  name         = each.value.names.dead
  kms_key_name = try(var.encryption_key.id, null)
  labels       = local.labels[each.key]

  depends_on = [google_kms_crypto_key_iam_member.service_agent]
}

# A topic with a key of your own is refused unless Pub/Sub itself may use the key.
resource "google_kms_crypto_key_iam_member" "service_agent" {
  for_each = toset(var.encryption_key == null ? [] : ["topics"])

  crypto_key_id = var.encryption_key.id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = local.service_agent
}

resource "google_pubsub_subscription" "main" {
  for_each = local.mains

  project                      = var.project
  name                         = each.value.name
  topic                        = google_pubsub_topic.main[each.key].id
  ack_deadline_seconds         = local.queues[each.value.queue].lease_seconds
  message_retention_duration   = "${local.queues[each.value.queue].retention_seconds}s"
  enable_message_ordering      = local.queues[each.value.queue].ordered
  enable_exactly_once_delivery = var.exactly_once
  labels                       = local.labels[each.value.queue]

  # Without the block, a subscription that nobody uses for 31 days is deleted, with what waits in it.
  expiration_policy {
    ttl = ""
  }

  # The net far behind cloudq's own limit. Without it, Pub/Sub does not count deliveries at all.
  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead[each.value.queue].id
    max_delivery_attempts = local.queues[each.value.queue].max_deliveries
  }

  # Only where it is pushed: there, redelivery would be immediate. On a pull, it would be added to what a worker holds.
  dynamic "retry_policy" {
    for_each = contains(keys(local.serverless), each.value.queue) ? ["push"] : []

    content {
      minimum_backoff = "15s"
      maximum_backoff = "600s"
    }
  }

  dynamic "push_config" {
    for_each = contains(keys(local.serverless), each.value.queue) ? [for name, function in var.functions : function if name == each.value.queue] : []

    content {
      push_endpoint = push_config.value.target

      oidc_token {
        service_account_email = push_config.value.identity
        audience              = coalesce(push_config.value.audience, push_config.value.target)
      }
    }
  }

  lifecycle {
    # Apart from the other rules: the URL may only be known after the service is made.
    precondition {
      condition     = alltrue([for name, function in var.functions : startswith(function.target, "https://") if name == each.value.queue])
      error_message = "functions.${each.value.queue}.target = \"${try(var.functions[each.value.queue].target, "")}\": Pub/Sub pushes to an https URL. Name that of the service."
    }
  }
}

# Neither a retry policy nor a dead-letter policy: what waits for its time is looked at often.
resource "google_pubsub_subscription" "delay" {
  for_each = local.queues

  project                      = var.project
  name                         = each.value.names.delay
  topic                        = google_pubsub_topic.delay[each.key].id
  ack_deadline_seconds         = each.value.lease_seconds
  message_retention_duration   = "${each.value.delay_retention_seconds}s"
  enable_message_ordering      = false
  enable_exactly_once_delivery = var.exactly_once
  labels                       = local.labels[each.key]

  expiration_policy {
    ttl = ""
  }
}

# A topic alone keeps nothing: without this subscription, dead letters would vanish.
resource "google_pubsub_subscription" "dead" {
  for_each = local.queues

  project                      = var.project
  name                         = each.value.names.dead
  topic                        = google_pubsub_topic.dead[each.key].id
  ack_deadline_seconds         = each.value.lease_seconds
  message_retention_duration   = "${each.value.dead_retention_seconds}s"
  enable_message_ordering      = false
  enable_exactly_once_delivery = var.exactly_once
  labels                       = local.labels[each.key]

  expiration_policy {
    ttl = ""
  }
}

# Without both of these, Pub/Sub moves nothing to the dead part, and tells nobody.
resource "google_pubsub_topic_iam_member" "moves_dead" {
  for_each = local.queues

  project = var.project
  topic   = google_pubsub_topic.dead[each.key].name
  role    = "roles/pubsub.publisher"
  member  = local.service_agent

  lifecycle {
    replace_triggered_by = [google_pubsub_topic.dead[each.key].id]
  }
}

resource "google_pubsub_subscription_iam_member" "moves_dead" {
  for_each = local.mains

  project      = var.project
  subscription = google_pubsub_subscription.main[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.service_agent

  lifecycle {
    # A subscription that is made anew has lost its grants.
    replace_triggered_by = [google_pubsub_subscription.main[each.key].id]
  }
}
