output "cloudq_config" {
  description = "What the application reads: `terraform output -json cloudq_config > cloudq.infra.json`, or in CLOUDQ_INFRA. It holds no secret."
  value = {
    schema_version = 1
    config_hash    = var.cloudq.config_hash
    provider       = var.cloudq.provider
    namespace      = var.cloudq.namespace
    url            = "servicebus://${azurerm_servicebus_namespace.this.name}${var.cloudq.prefix == "" ? "" : "?prefix=${var.cloudq.prefix}"}"
    queues = { for name, queue in local.queues : name => {
      hash  = queue.hash
      main  = { for priority in keys(queue.names.main) : priority => azurerm_servicebus_queue.main["${name}/${priority}"].id }
      delay = null
      dead  = null
    } }
  }
}

output "autoscaling" {
  description = "How many workers a backlog asks for, as data for what starts them."
  value = { for name, queue in local.queues : name => {
    queues  = values(queue.names.main)
    backlog = queue.scale.backlog
    minimum = queue.scale.minimum
    maximum = queue.scale.maximum
  } if queue.serverless == null }
}

output "namespace_id" {
  description = "Resource id of the Service Bus namespace."
  value       = azurerm_servicebus_namespace.this.id
}
