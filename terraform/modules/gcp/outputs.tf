output "cloudq_config" {
  description = "What the application reads: `terraform output -json cloudq_config > cloudq.infra.json`, or in CLOUDQ_INFRA. It holds no secret."
  value = {
    schema_version = 1
    config_hash    = var.cloudq.config_hash
    provider       = var.cloudq.provider
    namespace      = var.cloudq.namespace
    url            = "pubsub://${var.project}${length(local.options) == 0 ? "" : "?${join("&", local.options)}"}"
    queues = { for name, queue in local.queues : name => {
      hash  = queue.hash
      main  = { for priority in keys(queue.names.main) : priority => google_pubsub_subscription.main["${name}/${priority}"].id }
      delay = google_pubsub_subscription.delay[name].id
      dead  = google_pubsub_subscription.dead[name].id
    } }
  }
}

locals {
  options = concat(
    var.cloudq.prefix == "" ? [] : ["prefix=${var.cloudq.prefix}"],
    var.exactly_once ? ["exactly_once=true"] : [],
  )
}

output "autoscaling" {
  description = "How many workers a backlog asks for, as data for what starts them. Delay parts count too: a worker forwards what is due."
  value = { for name, queue in local.queues : name => {
    queues  = concat(values(queue.names.main), [queue.names.delay])
    backlog = queue.scale.backlog
    minimum = queue.scale.minimum
    maximum = queue.scale.maximum
  } if queue.serverless == null }
}
