resource "google_monitoring_alert_policy" "oldest" {
  for_each = { for key, main in local.mains : key => main if local.queues[main.queue].alarm.oldest_seconds > 0 }

  project               = var.project
  display_name          = "${each.value.name} oldest"
  combiner              = "OR"
  notification_channels = values(var.notify)
  user_labels           = local.labels[each.value.queue]

  conditions {
    display_name = "The oldest task in ${each.value.name} waits for more than ${local.queues[each.value.queue].alarm.oldest_seconds} s"

    condition_threshold {
      filter          = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${each.value.name}\" AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
      comparison      = "COMPARISON_GT"
      threshold_value = local.queues[each.value.queue].alarm.oldest_seconds
      duration        = "0s"

      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
}

resource "google_monitoring_alert_policy" "dead" {
  for_each = { for name, queue in local.queues : name => queue if queue.alarm.dead > 0 }

  project               = var.project
  display_name          = "${each.value.names.dead} not empty"
  combiner              = "OR"
  notification_channels = values(var.notify)
  user_labels           = local.labels[each.key]

  conditions {
    display_name = "Tasks of ${each.key} were given up: cloudq dlq ls"

    condition_threshold {
      filter          = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${each.value.names.dead}\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.alarm.dead - 1
      duration        = "0s"

      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
}
