# Everything: a Premium namespace with a key of your own, reached over a private endpoint alone; an identity for each kind of
# program, alarms that reach somebody, a function in place of workers.

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

variable "key" {
  description = "Id of the Key Vault key, and of the user-assigned identity that may use it."
  type        = object({ id = string, identity = string })
}

variable "subnet" {
  description = "Resource id of the subnet from which the namespace is reached."
  type        = string
}

variable "action_groups" {
  description = "Action groups for alarms, by a name of your own."
  type        = map(string)
  default     = {}
}

variable "thumbnails" {
  description = "The function app that makes thumbnails: its resource id, and the object id of its identity. It is deployed elsewhere, with its code."
  type        = object({ target = string, identity = string })
}

resource "azurerm_resource_group" "shop" {
  name     = "shop"
  location = "westeurope"
}

resource "azurerm_user_assigned_identity" "program" {
  for_each = toset(["web", "worker", "support"])

  name                = "shop-${each.key}"
  resource_group_name = azurerm_resource_group.shop.name
  location            = azurerm_resource_group.shop.location
}

module "cloudq" {
  source = "../../modules/azure"

  cloudq                = var.cloudq
  resource_group_name   = azurerm_resource_group.shop.name
  location              = azurerm_resource_group.shop.location
  namespace             = "shop-production"
  sku                   = "Premium"
  capacity              = 1
  public_network_access = false
  encryption_key        = { id = var.key.id }
  encryption_identity   = var.key.identity
  notify                = var.action_groups
  functions             = { thumbnails = var.thumbnails }
  tags                  = { team = "shop" }
  principals = {
    producers = { web = azurerm_user_assigned_identity.program["web"].principal_id }
    workers   = { worker = azurerm_user_assigned_identity.program["worker"].principal_id }
    operators = { support = azurerm_user_assigned_identity.program["support"].principal_id }
  }
}

resource "azurerm_private_endpoint" "queues" {
  name                = "shop-queues"
  resource_group_name = azurerm_resource_group.shop.name
  location            = azurerm_resource_group.shop.location
  subnet_id           = var.subnet

  private_service_connection {
    name                           = "shop-queues"
    private_connection_resource_id = module.cloudq.namespace_id
    subresource_names              = ["namespace"]
    is_manual_connection           = false
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

output "function_app_settings" {
  description = "What the function app is configured with."
  value       = module.cloudq.function_app_settings
}
