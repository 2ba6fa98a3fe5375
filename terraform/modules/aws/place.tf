# Where the queues are: the provider's account and region.

variable "max_message_bytes" {
  description = "The largest message. Versions of the provider before 6.8 refuse more than 262144: set that there, and larger tasks are refused at the enqueue."
  type        = number
  default     = 1048576
  nullable    = false

  validation {
    condition     = var.max_message_bytes >= 262144 && var.max_message_bytes <= local.limits.message_bytes
    error_message = "max_message_bytes = ${var.max_message_bytes}: ${local.limits.name} takes up to ${local.limits.message_bytes}, and cloudq wants 262144 at the least. Choose a number between."
  }
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  # `id`, because version 6 of the provider renamed `name`.
  region = data.aws_region.current.id

  # Computed, not read from the queues: an attribute of a queue that changes would put off every policy that names it.
  arn = "arn:${data.aws_partition.current.partition}:sqs:${local.region}:${local.account}"

  # By the names alone: the text itself may only be known after the apply.
  refused_here = [for role, length in { for role, rights in local.roles : role => length(jsonencode(rights)) } :
    "${length(local.queues)} queues are too many for one policy: that of the ${role} has some ${length} characters, and IAM takes 6144. Give some queues another namespace, and a second call of the module."
    if length > 5900
  ]
}
