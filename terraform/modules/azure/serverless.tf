# A function app finds the namespace by its settings, and reaches it as its own identity: no connection string.

output "function_app_settings" {
  description = "For each queue with a function: the app settings that its function app needs, for a trigger with connection = \"ServiceBus\"."
  value = { for name, function in local.serverless : name => merge(
    {
      "ServiceBus__fullyQualifiedNamespace" = "${azurerm_servicebus_namespace.this.name}.servicebus.windows.net"
      # A lock is renewed for as long as the function may run, and no longer.
      "AzureFunctionsJobHost__extensions__serviceBus__maxAutoLockRenewalDuration" = format("%02d:%02d:%02d", floor(function.timeout_seconds / 3600), floor(function.timeout_seconds % 3600 / 60), function.timeout_seconds % 60)
      "AzureFunctionsJobHost__functionTimeout"                                    = format("%02d:%02d:%02d", floor(function.timeout_seconds / 3600), floor(function.timeout_seconds % 3600 / 60), function.timeout_seconds % 60)
    },
    function.concurrency == 0 ? {} : {
      "AzureFunctionsJobHost__extensions__serviceBus__maxConcurrentCalls" = tostring(function.concurrency)
    },
  ) }
}
