# The push itself is part of the subscription: queues.tf. Pub/Sub signs its requests as the function's identity, for which it must
# be allowed to make tokens; that the identity may call the service (roles/run.invoker) belongs to the service.

output "push" {
  description = "For each queue with a function: the audience and the service account that the push app must ask for."
  value = { for name, function in var.functions : name => {
    audience        = coalesce(function.audience, function.target)
    service_account = function.identity
  } if contains(keys(local.queues), name) }
}
