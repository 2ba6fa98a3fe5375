# The least: a queue with its delay and dead parts, in one project.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.2, < 8"
    }
  }
}

variable "project" {
  description = "The id of the project."
  type        = string
  default     = "shop-production"
}

variable "project_number" {
  description = "The number of the project."
  type        = string
}

provider "google" {
  project = var.project
}

variable "cloudq" {
  description = "The queues: cloudq.auto.tfvars.json, written by `cloudq infra export`."
  type        = any
}

module "cloudq" {
  # checkov:skip=CKV_GCP_83: Google's own keys encrypt by default; gcp-complete shows a key of your own.
  source = "../../modules/gcp"

  cloudq         = var.cloudq
  project        = var.project
  project_number = var.project_number
}

output "cloudq_config" {
  description = "terraform output -json cloudq_config > cloudq.infra.json"
  value       = module.cloudq.cloudq_config
}
