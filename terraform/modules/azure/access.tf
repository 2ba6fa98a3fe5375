# Rights on these queues, none on the namespace. An assignment takes minutes until it is in force.

locals {
  rights = {
    producer = ["Azure Service Bus Data Sender"]
    worker   = ["Azure Service Bus Data Receiver", "Azure Service Bus Data Sender"]
    # Counts and settings are read with the right to manage; no smaller role of the provider has it.
    operator = ["Azure Service Bus Data Owner"]
  }

  principals = merge(
    { for name, id in var.principals.producers : "producer ${name}" => { role = "producer", id = id, queue = null } },
    { for name, id in var.principals.workers : "worker ${name}" => { role = "worker", id = id, queue = null } },
    { for name, id in var.principals.operators : "operator ${name}" => { role = "operator", id = id, queue = null } },
    { for name, function in var.functions : "function ${name}" => { role = "worker", id = function.identity, queue = name } },
  )

  assignments = merge([for who, principal in local.principals : merge([for key, main in local.mains : {
    for right in local.rights[principal.role] : "${who} ${key} ${right}" => {
      id = principal.id, main = key, right = right, program = principal.role != "operator"
    }
  } if principal.queue == null || principal.queue == main.queue]...)]...)
}

resource "azurerm_role_assignment" "queue" {
  for_each = local.assignments

  scope                = azurerm_servicebus_queue.main[each.value.main].id
  role_definition_name = each.value.right
  principal_id         = each.value.id
  # Said, because Azure may not yet know an identity that was made a moment ago.
  # An operator may be a person or a group.
  principal_type = each.value.program ? "ServicePrincipal" : null
}
