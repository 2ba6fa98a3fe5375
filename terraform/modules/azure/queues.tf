resource "azurerm_servicebus_namespace" "this" {
  name                         = var.namespace
  resource_group_name          = var.resource_group_name
  location                     = var.location
  sku                          = var.sku
  capacity                     = var.capacity
  premium_messaging_partitions = var.sku == "Premium" ? 1 : 0
  # Identities alone: a key of the namespace can do anything, and is copied.
  local_auth_enabled            = false
  minimum_tls_version           = "1.2"
  public_network_access_enabled = var.public_network_access
  # A queue carries no tags: the namespace does for all.
  tags = merge(var.tags, { "cloudq-config" = substr(var.cloudq.config_hash, 0, 12) })

  # Network rules are Premium's.
  dynamic "network_rule_set" {
    for_each = var.sku == "Premium" ? ["said, so that a change of it is seen"] : []

    content {
      default_action                = "Allow"
      public_network_access_enabled = var.public_network_access
      trusted_services_allowed      = false
    }
  }

  identity {
    type         = var.encryption_identity == null ? "SystemAssigned" : "UserAssigned"
    identity_ids = var.encryption_identity == null ? null : [var.encryption_identity]
  }

  dynamic "customer_managed_key" {
    for_each = var.encryption_key == null ? [] : [var.encryption_key.id]

    content {
      key_vault_key_id = customer_managed_key.value
      identity_id      = coalesce(var.encryption_identity, "missing")
      # A second layer, with a key of the provider's.
      infrastructure_encryption_enabled = true
    }
  }
}

# There is no delay part, because Service Bus schedules for any time, and no dead one, because each queue has its own built in.
resource "azurerm_servicebus_queue" "main" {
  for_each = local.mains

  name                = each.value.name
  namespace_id        = azurerm_servicebus_namespace.this.id
  lock_duration       = local.iso["${local.queues[each.value.queue].lease_seconds}"]
  requires_session    = local.queues[each.value.queue].ordered
  default_message_ttl = local.iso["${local.queues[each.value.queue].retention_seconds}"]
  # Else what waited too long would be gone without a trace.
  dead_lettering_on_message_expiration = true
  # The net far behind cloudq's own limit; Azure's own default of 10 would move tasks in the middle of their retries.
  max_delivery_count = local.queues[each.value.queue].max_deliveries
  # Copies for a later attempt are made again after a kill, under the same id.
  requires_duplicate_detection            = true
  duplicate_detection_history_time_window = local.iso["${local.queues[each.value.queue].dedup_seconds}"]
}

locals {
  durations = distinct(flatten([for queue in values(local.queues) : [queue.lease_seconds, queue.retention_seconds, queue.dedup_seconds, queue.alarm.oldest_seconds]]))

  # ISO 8601 as Azure gives it back: PT1M, not PT60S, or every plan would show a change.
  iso = { for seconds in local.durations : tostring(seconds) => format("P%s%s%s%s%s",
    seconds >= 86400 ? "${floor(seconds / 86400)}D" : "",
    seconds % 86400 > 0 || seconds == 0 ? "T" : "",
    floor(seconds % 86400 / 3600) > 0 ? "${floor(seconds % 86400 / 3600)}H" : "",
    floor(seconds % 3600 / 60) > 0 ? "${floor(seconds % 3600 / 60)}M" : "",
    seconds % 60 > 0 || seconds == 0 ? "${seconds % 60}S" : "",
  ) }
}
