# No metric tells the age of the oldest message. Composed: something waited all through the window, and nothing was completed.
resource "azurerm_monitor_metric_alert" "oldest" {
  for_each = { for key, main in local.mains : key => main if local.queues[main.queue].alarm.oldest_seconds > 0 }

  name                = "${each.value.name}-oldest"
  resource_group_name = var.resource_group_name
  scopes              = [azurerm_servicebus_namespace.this.id]
  description         = "${each.value.name} stands still: workers are missing."
  severity            = 2
  window_size         = local.iso["${local.queues[each.value.queue].alarm.oldest_seconds}"]
  frequency           = local.queues[each.value.queue].alarm.oldest_seconds < 300 ? "PT1M" : "PT5M"
  tags                = merge(var.tags, { "cloudq-queue" = each.value.queue })

  criteria {
    metric_namespace = "Microsoft.ServiceBus/namespaces"
    metric_name      = "ActiveMessages"
    aggregation      = "Minimum"
    operator         = "GreaterThan"
    threshold        = 0

    dimension {
      name     = "EntityName"
      operator = "Include"
      values   = [each.value.name]
    }
  }

  criteria {
    metric_namespace = "Microsoft.ServiceBus/namespaces"
    metric_name      = "CompleteMessage"
    aggregation      = "Total"
    operator         = "LessThanOrEqual"
    threshold        = 0

    dimension {
      name     = "EntityName"
      operator = "Include"
      values   = [each.value.name]
    }
  }

  dynamic "action" {
    for_each = var.notify

    content {
      action_group_id = action.value
    }
  }
}

resource "azurerm_monitor_metric_alert" "dead" {
  for_each = { for key, main in local.mains : key => main if local.queues[main.queue].alarm.dead > 0 }

  name                = "${each.value.name}-dead"
  resource_group_name = var.resource_group_name
  scopes              = [azurerm_servicebus_namespace.this.id]
  description         = "Tasks of ${each.value.queue} were given up: cloudq dlq ls."
  severity            = 2
  window_size         = "PT5M"
  frequency           = "PT1M"
  tags                = merge(var.tags, { "cloudq-queue" = each.value.queue })

  criteria {
    metric_namespace = "Microsoft.ServiceBus/namespaces"
    metric_name      = "DeadletteredMessages"
    aggregation      = "Maximum"
    operator         = "GreaterThanOrEqual"
    threshold        = local.queues[each.value.queue].alarm.dead

    dimension {
      name     = "EntityName"
      operator = "Include"
      values   = [each.value.name]
    }
  }

  dynamic "action" {
    for_each = var.notify

    content {
      action_group_id = action.value
    }
  }
}
