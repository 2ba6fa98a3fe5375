# Everything: a key of your own, a service account for each kind of program, alarms that reach somebody, a service that is pushed to.

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

variable "key" {
  description = "projects/.../locations/.../keyRings/.../cryptoKeys/..., in the region of the queues."
  type        = string
}

variable "channels" {
  description = "Notification channels for alarms, by a name of your own."
  type        = map(string)
  default     = {}
}

variable "thumbnails" {
  description = "The Cloud Run service that makes thumbnails: its name, region and URL. It is deployed elsewhere, with its code."
  type        = object({ name = string, region = string, url = string })
}

provider "google" {
  project = var.project
}

variable "cloudq" {
  description = "The queues: cloudq.auto.tfvars.json, written by `cloudq infra export`."
  type        = any
}

resource "google_service_account" "program" {
  for_each = toset(["web", "worker", "support", "push"])

  project    = var.project
  account_id = "shop-${each.key}"
}

# Pub/Sub pushes as this account.
resource "google_cloud_run_v2_service_iam_member" "push" {
  project  = var.project
  location = var.thumbnails.region
  name     = var.thumbnails.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${google_service_account.program["push"].email}"
}

module "cloudq" {
  source = "../../modules/gcp"

  cloudq         = var.cloudq
  project        = var.project
  project_number = var.project_number
  encryption_key = { id = var.key }
  notify         = var.channels
  tags           = { team = "shop" }
  functions = {
    thumbnails = { target = "${var.thumbnails.url}/run", identity = google_service_account.program["push"].email }
  }
  principals = {
    producers = { web = "serviceAccount:${google_service_account.program["web"].email}" }
    workers   = { worker = "serviceAccount:${google_service_account.program["worker"].email}" }
    operators = { support = "serviceAccount:${google_service_account.program["support"].email}" }
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

output "push" {
  description = "What the service must ask for."
  value       = module.cloudq.push
}
