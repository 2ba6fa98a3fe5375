# Run by `terraform test`: the provider is a mock, so only the module's own reasoning is shown.

mock_provider "azurerm" {}

variables {
  cloudq              = jsondecode(file("tests/cloudq.json")).cloudq
  resource_group_name = "shop"
  location            = "westeurope"
  namespace           = "shop-production"
  functions           = { thumbs = { target = "/sites/thumbs", identity = "00000000-0000-0000-0000-000000000001" } }
}

run "one_queue_for_each_priority_and_no_other_part" {
  command = plan

  assert {
    condition     = toset(keys(azurerm_servicebus_queue.main)) == toset(["audit/normal", "mail/high", "mail/normal", "thumbs/normal"])
    error_message = "Service Bus schedules by itself, and each queue has a dead part built in."
  }
  assert {
    condition     = azurerm_servicebus_queue.main["audit/normal"].requires_session
    error_message = "Ordered."
  }
}

run "durations_are_as_azure_gives_them_back" {
  command = plan

  assert {
    condition     = azurerm_servicebus_queue.main["mail/high"].lock_duration == "PT2M" && azurerm_servicebus_queue.main["mail/high"].default_message_ttl == "P7D" && azurerm_servicebus_queue.main["mail/high"].duplicate_detection_history_time_window == "PT6H"
    error_message = "Else every plan would show a change."
  }
}

run "what_expires_is_kept_and_the_net_is_behind_the_retries" {
  command = plan

  assert {
    condition     = alltrue([for queue in azurerm_servicebus_queue.main : queue.dead_lettering_on_message_expiration && queue.requires_duplicate_detection])
    error_message = "Dead-lettered, not deleted; copies dropped."
  }
  assert {
    condition     = azurerm_servicebus_queue.main["mail/high"].max_delivery_count == 28
    error_message = "max(3 x 8, 8 + 20); the default of 10 would move tasks in the middle of their retries."
  }
}

run "identities_alone_over_tls" {
  command = plan

  assert {
    condition     = !azurerm_servicebus_namespace.this.local_auth_enabled && azurerm_servicebus_namespace.this.minimum_tls_version == "1.2"
    error_message = "No keys, no old TLS."
  }
}

run "rights_are_on_queues" {
  command = plan

  variables {
    principals = { producers = { web = "00000000-0000-0000-0000-000000000002" } }
  }

  assert {
    condition     = length(azurerm_role_assignment.queue) == 6 && toset([for each in azurerm_role_assignment.queue : each.principal_type]) == toset(["ServicePrincipal"])
    error_message = "A producer sends to four queues, the function receives from its own and sends to it."
  }
}

run "alarms_are_on_by_default" {
  command = plan

  assert {
    condition     = length(azurerm_monitor_metric_alert.oldest) == 4 && length(azurerm_monitor_metric_alert.dead) == 4
    error_message = "Two for each queue."
  }
  assert {
    condition     = azurerm_monitor_metric_alert.oldest["mail/high"].window_size == "PT1H" && length(azurerm_monitor_metric_alert.oldest["mail/high"].criteria) == 2
    error_message = "Something waited, and nothing was completed."
  }
}

run "a_key_of_your_own_needs_premium" {
  command = plan

  variables {
    encryption_key = { id = "https://shop.vault.azure.net/keys/queues" }
  }

  expect_failures = [terraform_data.description]
}

run "basic_is_refused" {
  command = plan

  variables {
    sku = "Basic"
  }

  expect_failures = [var.sku]
}

run "the_internet_is_kept_out_only_by_premium" {
  command = plan

  variables {
    public_network_access = false
  }

  expect_failures = [terraform_data.description]
}

run "a_description_that_was_changed_by_hand_is_refused" {
  command = plan

  variables {
    cloudq = merge(jsondecode(file("tests/cloudq.json")).cloudq, { namespace = "other" })
  }

  expect_failures = [var.cloudq]
}
