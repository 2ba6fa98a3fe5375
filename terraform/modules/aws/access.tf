# A policy for each kind of program, and for each function, over these queues and nothing else. A batch needs the right of one.

locals {
  arns = {
    main  = [for main in values(local.mains) : "${local.arn}:${main.name}"]
    delay = [for queue in values(local.delays) : "${local.arn}:${queue.names.delay}"]
    dead  = [for queue in values(local.queues) : "${local.arn}:${queue.names.dead}"]
  }

  roles = merge(local.programs, local.function_roles)

  programs = {
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

  # A function has a policy of its own, over the parts of its own queue. AWS itself asks for GetQueueAttributes there (Lambda guide,
  # Using Lambda with Amazon SQS, execution role).
  function_roles = { for name, queue in local.queues : "function-${name}" => [
    {
      actions = ["ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ReceiveMessage", "SendMessage"]
      on      = [for physical in compact(concat(values(queue.names.main), [queue.names.delay])) : "${local.arn}:${physical}"]
    },
    { actions = ["GetQueueUrl", "SendMessage"], on = ["${local.arn}:${queue.names.dead}"] },
  ] if contains(keys(var.functions), name) }

  documents = { for role, rights in local.roles : role => {
    Version = "2012-10-17"
    Statement = concat(
      [for each in rights : {
        Effect   = "Allow"
        Action   = [for action in each.actions : "sqs:${action}"]
        Resource = each.on
      } if length(each.on) > 0],
      # Who sends encrypts and decrypts, and every program sends (Developer Guide, key management).
      [for key in var.encryption_key == null ? [] : [var.encryption_key] : {
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = [key.id]
      }],
      # doctor reads whether a function says which messages failed; the call knows no resource.
      [for call in role == "operator" && length(local.serverless) > 0 ? ["lambda:ListEventSourceMappings"] : [] : {
        Effect   = "Allow"
        Action   = [call]
        Resource = ["*"]
      }],
    )
  } }

  attached = merge(
    { for name, role in var.principals.producers : "producer/${name}" => { policy = "producer", role = role } },
    { for name, role in var.principals.workers : "worker/${name}" => { policy = "worker", role = role } },
    { for name, role in var.principals.operators : "operator/${name}" => { policy = "operator", role = role } },
    { for name, function in var.functions : "function/${name}" => { policy = "function-${name}", role = function.identity } if contains(keys(local.queues), name) },
  )
}

resource "aws_iam_policy" "role" {
  for_each = local.documents

  name        = "${var.cloudq.prefix}${var.cloudq.namespace}-cloudq-${each.key}-${local.region}"
  description = "cloudq: what a ${each.key} of ${var.cloudq.namespace} needs"
  policy      = jsonencode(each.value)
  tags        = merge(var.tags, { "cloudq-config" = substr(var.cloudq.config_hash, 0, 12) })
}

resource "aws_iam_role_policy_attachment" "role" {
  for_each = local.attached

  role       = each.value.role
  policy_arn = aws_iam_policy.role[each.value.policy].arn
}
