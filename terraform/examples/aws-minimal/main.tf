# The least: a queue with its delay and dead parts, in the account and region of the provider.

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

module "cloudq" {
  source = "../../modules/aws"

  cloudq = var.cloudq
}

output "cloudq_config" {
  description = "terraform output -json cloudq_config > cloudq.infra.json"
  value       = module.cloudq.cloudq_config
}
