output "cloudq_config" {
  description = "What the application reads: `terraform output -json cloudq_config > cloudq.infra.json`, or in CLOUDQ_INFRA. It holds no secret."
  value = {
    schema_version = 1
    config_hash    = var.cloudq.config_hash
    provider       = var.cloudq.provider
    namespace      = var.cloudq.namespace
    url            = "sqs://${local.region}?account=${local.account}${var.cloudq.prefix == "" ? "" : "&prefix=${var.cloudq.prefix}"}"
    queues = { for name, queue in local.queues : name => {
      hash  = queue.hash
      main  = { for priority in keys(queue.names.main) : priority => aws_sqs_queue.main["${name}/${priority}"].url }
      delay = queue.names.delay == null ? null : aws_sqs_queue.delay[name].url
      dead  = aws_sqs_queue.dead[name].url
    } }
  }
}

output "access" {
  description = "The ARN of each policy: producer, worker, operator, and function-<queue> for each function."
  value       = { for name, policy in aws_iam_policy.role : name => policy.arn }
}

output "autoscaling" {
  description = "How many workers a backlog asks for, as data for what starts them. Delay parts count too: a worker forwards what is due."
  value = { for name, queue in local.queues : name => {
    queues  = concat(values(queue.names.main), queue.names.delay == null ? [] : [queue.names.delay])
    backlog = queue.scale.backlog
    minimum = queue.scale.minimum
    maximum = queue.scale.maximum
  } if queue.serverless == null }
}
