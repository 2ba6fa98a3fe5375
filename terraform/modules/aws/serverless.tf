locals {
  # The queue itself, and its delay part: what is due further ahead than 15 minutes is forwarded by the same function.
  sources = merge(
    { for key, main in local.mains : "main/${key}" => { queue = main.queue, name = main.name, ordered = local.queues[main.queue].ordered }
    if contains(keys(local.serverless), main.queue) },
    { for name, queue in local.delays : "delay/${name}" => { queue = name, name = queue.names.delay, ordered = false }
    if contains(keys(local.serverless), name) },
  )
}

resource "aws_lambda_event_source_mapping" "function" {
  for_each = { for key, source in local.sources : key => source if contains(keys(var.functions), source.queue) }

  event_source_arn = "${local.arn}:${each.value.name}"
  function_name    = var.functions[each.value.queue].target
  # Not to be chosen: without it the list of failures is ignored, and what failed is deleted.
  function_response_types = ["ReportBatchItemFailures"]
  batch_size              = each.value.ordered ? min(10, local.serverless[each.value.queue].batch) : local.serverless[each.value.queue].batch
  # A FIFO queue takes none, not even 0 (API CreateEventSourceMapping).
  maximum_batching_window_in_seconds = each.value.ordered ? null : local.serverless[each.value.queue].window_seconds

  dynamic "scaling_config" {
    for_each = local.serverless[each.value.queue].concurrency > 0 ? [local.serverless[each.value.queue].concurrency] : []

    content {
      maximum_concurrency = scaling_config.value
    }
  }

  tags = local.tags[each.value.queue]

  depends_on = [aws_sqs_queue.main, aws_sqs_queue.delay, aws_iam_role_policy_attachment.role]
}
