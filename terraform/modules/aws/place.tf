# Where the queues are: the provider's account and region. Nothing else is asked for on AWS.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  # `id`, because version 6 of the provider renamed `name`.
  region = data.aws_region.current.id

  # Computed, not read from the queues: an attribute of a queue that changes would put off every policy that names it.
  arn = "arn:${data.aws_partition.current.partition}:sqs:${local.region}:${local.account}"

  refused_here = []
}
