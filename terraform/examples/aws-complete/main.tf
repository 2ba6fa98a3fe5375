# Everything: a key of your own, roles for each kind of program, alarms that reach somebody, a function in place of workers.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7"
    }
  }
}

provider "aws" {
  region = "eu-west-1"
}

variable "cloudq" {
  description = "The queues: cloudq.auto.tfvars.json, written by `cloudq infra export`."
  type        = any
}

variable "thumbnails" {
  description = "The function that makes thumbnails: its ARN, and the name of its role. It is deployed elsewhere, with its code."
  type        = object({ target = string, identity = string })
}

data "aws_caller_identity" "current" {}

resource "aws_kms_key" "queues" {
  description         = "What waits in the queues of shop"
  enable_key_rotation = true
  # Who may use it is said by the policies of the roles.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TheAccountDecides"
      Effect    = "Allow"
      Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.current.account_id}:root" }
      Action    = "kms:*"
      Resource  = "*"
      }, {
      Sid       = "AlarmsReachTheTopic"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
    }]
  })
}

resource "aws_sns_topic" "alarms" {
  name              = "shop-alarms"
  kms_master_key_id = aws_kms_key.queues.arn
}

resource "aws_iam_role" "program" {
  for_each = toset(["web", "worker", "support"])

  name = "shop-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

module "cloudq" {
  source = "../../modules/aws"

  cloudq         = var.cloudq
  encryption_key = { id = aws_kms_key.queues.arn }
  notify         = { team = aws_sns_topic.alarms.arn }
  functions      = { thumbnails = var.thumbnails }
  tags           = { team = "shop" }
  principals = {
    producers = { web = aws_iam_role.program["web"].name }
    workers   = { worker = aws_iam_role.program["worker"].name }
    operators = { support = aws_iam_role.program["support"].name }
  }
}

output "cloudq_config" {
  description = "terraform output -json cloudq_config > cloudq.infra.json"
  value       = module.cloudq.cloudq_config
}

output "autoscaling" {
  description = "For what starts the workers."
  value       = module.cloudq.autoscaling
}
