locals {
  delays = { for name, queue in local.queues : name => queue if queue.names.delay != null }
  tags = { for name, queue in local.queues : name => merge(var.tags, {
    "cloudq-config" = queue.hash
    "cloudq-queue"  = name
  }) }
}

resource "aws_sqs_queue" "dead" {
  for_each = local.queues

  name = each.value.names.dead
  # The dead part of a FIFO queue is one too (Developer Guide, dead-letter queues).
  fifo_queue                 = each.value.ordered
  visibility_timeout_seconds = each.value.lease_seconds
  # Longer than its queue's, which is seen to in description.tf: a message that SQS moves by itself keeps its age.
  message_retention_seconds = each.value.dead_retention_seconds
  max_message_size          = var.max_message_bytes
  # null, not false, beside a key of your own: the two contradict.
  sqs_managed_sse_enabled = var.encryption_key == null ? true : null
  kms_master_key_id       = try(var.encryption_key.id, null)
  tags                    = local.tags[each.key]
}

resource "aws_sqs_queue" "main" {
  for_each = local.mains

  name                       = each.value.name
  fifo_queue                 = local.queues[each.value.queue].ordered
  visibility_timeout_seconds = local.queues[each.value.queue].lease_seconds
  message_retention_seconds  = local.queues[each.value.queue].retention_seconds
  max_message_size           = var.max_message_bytes
  sqs_managed_sse_enabled    = var.encryption_key == null ? true : null
  kms_master_key_id          = try(var.encryption_key.id, null)
  tags                       = local.tags[each.value.queue]
}

# What is due further ahead than SQS delays waits here, hidden. There is no redrive policy: each look at it would count.
resource "aws_sqs_queue" "delay" {
  for_each = local.delays

  name                       = each.value.names.delay
  visibility_timeout_seconds = each.value.lease_seconds
  message_retention_seconds  = each.value.delay_retention_seconds
  max_message_size           = var.max_message_bytes
  sqs_managed_sse_enabled    = var.encryption_key == null ? true : null
  kms_master_key_id          = try(var.encryption_key.id, null)
  tags                       = local.tags[each.key]
}

# The net far behind cloudq's own limit. Apart from the queues: inside them both directions would be a cycle, and a policy that is
# taken out of the file would stay on the queue unseen.
resource "aws_sqs_queue_redrive_policy" "main" {
  for_each = local.mains

  queue_url = aws_sqs_queue.main[each.key].url
  redrive_policy = jsonencode({
    deadLetterTargetArn = "${local.arn}:${local.queues[each.value.queue].names.dead}"
    maxReceiveCount     = local.queues[each.value.queue].max_deliveries
  })

  depends_on = [aws_sqs_queue.dead]
}

resource "aws_sqs_queue_redrive_allow_policy" "dead" {
  for_each = local.queues

  queue_url = aws_sqs_queue.dead[each.key].url
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    # At most 10 are allowed (Developer Guide); a queue has three priorities.
    sourceQueueArns = [for physical in values(each.value.names.main) : "${local.arn}:${physical}"]
  })
}

locals {
  # Every queue with its address, for what all have in common.
  every = merge(
    { for key, main in local.mains : "main/${key}" => { name = main.name, url = aws_sqs_queue.main[key].url } },
    { for name, queue in local.delays : "delay/${name}" => { name = queue.names.delay, url = aws_sqs_queue.delay[name].url } },
    { for name, queue in local.queues : "dead/${name}" => { name = queue.names.dead, url = aws_sqs_queue.dead[name].url } },
  )
}

resource "aws_sqs_queue_policy" "tls" {
  for_each = local.every

  queue_url = each.value.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = "${local.arn}:${each.value.name}"
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
