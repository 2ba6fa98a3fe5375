# Three policies, one for each kind of program, over these queues and nothing else. A batch call needs the right of the single one.

locals {
  arns = {
    main  = [for main in values(local.mains) : "${local.arn}:${main.name}"]
    delay = [for queue in values(local.delays) : "${local.arn}:${queue.names.delay}"]
    dead  = [for queue in values(local.queues) : "${local.arn}:${queue.names.dead}"]
  }

  roles = {
    producer = [
      { actions = ["GetQueueUrl", "SendMessage"], on = concat(local.arns.main, local.arns.delay) },
    ]
    worker = [
      {
        actions = ["ChangeMessageVisibility", "DeleteMessage", "GetQueueUrl", "ReceiveMessage", "SendMessage"]
        on      = concat(local.arns.main, local.arns.delay)
      },
      # How much is hidden in the delay part decides how it is hidden.
      { actions = ["GetQueueAttributes"], on = local.arns.delay },
      { actions = ["GetQueueUrl", "SendMessage"], on = local.arns.dead },
    ]
    operator = [
      { actions = ["GetQueueAttributes", "GetQueueUrl", "ListQueueTags", "SendMessage"], on = local.arns.main },
      { actions = ["GetQueueAttributes", "GetQueueUrl", "ListQueueTags"], on = local.arns.delay },
      {
        actions = [
          "ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ListMessageMoveTasks", "ListQueueTags",
          "ReceiveMessage", "StartMessageMoveTask",
        ]
        on = local.arns.dead
      },
    ]
  }

  # With a key of your own: who sends encrypts and decrypts, who receives decrypts (Developer Guide, key management).
  key_rights = {
    producer = ["kms:Decrypt", "kms:GenerateDataKey"]
    worker   = ["kms:Decrypt", "kms:GenerateDataKey"]
    operator = ["kms:Decrypt", "kms:GenerateDataKey"]
  }

  attached = merge(
    { for name, role in var.principals.producers : "producer/${name}" => { policy = "producer", role = role } },
    { for name, role in var.principals.workers : "worker/${name}" => { policy = "worker", role = role } },
    { for name, role in var.principals.operators : "operator/${name}" => { policy = "operator", role = role } },
    { for name, function in var.functions : "worker/function ${name}" => { policy = "worker", role = function.identity } },
  )
}

resource "aws_iam_policy" "role" {
  for_each = local.roles

  name        = "${var.cloudq.prefix}${var.cloudq.namespace}-cloudq-${each.key}-${local.region}"
  description = "cloudq: what a ${each.key} of ${var.cloudq.namespace} needs"
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [for rights in each.value : {
        Effect   = "Allow"
        Action   = [for action in rights.actions : "sqs:${action}"]
        Resource = rights.on
      } if length(rights.on) > 0],
      var.encryption_key == null ? [] : [{
        Effect   = "Allow"
        Action   = local.key_rights[each.key]
        Resource = [var.encryption_key]
      }],
      # doctor reads whether a function says which messages failed; the call knows no resource.
      each.key == "operator" && length(local.serverless) > 0 ? [{
        Effect   = "Allow"
        Action   = ["lambda:ListEventSourceMappings"]
        Resource = ["*"]
      }] : [],
    )
  })
  tags = merge(var.tags, { "cloudq-config" = substr(var.cloudq.config_hash, 0, 12) })
}

resource "aws_iam_role_policy_attachment" "role" {
  for_each = local.attached

  role       = each.value.role
  policy_arn = aws_iam_policy.role[each.value.policy].arn
}
