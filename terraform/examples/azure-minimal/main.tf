# The least: a namespace with a queue, whose dead-letter queue is built in.

terraform {
  required_version = ">= 1.9"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = ">= 4.14, < 6"
    }
  }
}

provider "azurerm" {
  features {}
}

variable "cloudq" {
  description = "The queues: cloudq.auto.tfvars.json, written by `cloudq infra export`."
  type        = any
}

resource "azurerm_resource_group" "shop" {
  name     = "shop"
  location = "westeurope"
}

module "cloudq" {
  # checkov:skip=CKV_AZURE_199: a second layer of encryption needs Premium; azure-complete has it.
  # checkov:skip=CKV_AZURE_201: a key of your own needs Premium; azure-complete has one.
  # checkov:skip=CKV_AZURE_204: a private endpoint needs Premium; azure-complete has one.
  source = "../../modules/azure"

  cloudq              = var.cloudq
  resource_group_name = azurerm_resource_group.shop.name
  location            = azurerm_resource_group.shop.location
  namespace           = "shop-production"
}

output "cloudq_config" {
  description = "terraform output -json cloudq_config > cloudq.infra.json"
  value       = module.cloudq.cloudq_config
}
