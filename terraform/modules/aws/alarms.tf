resource "aws_cloudwatch_metric_alarm" "oldest" {
  for_each = { for key, main in local.mains : key => main if local.queues[main.queue].alarm.oldest_seconds > 0 }

  alarm_name          = "${each.value.name}-oldest"
  alarm_description   = "The oldest task in ${each.value.name} has waited for ${local.queues[each.value.queue].alarm.oldest_seconds} s: workers are missing, or too slow."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = each.value.name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = local.queues[each.value.queue].alarm.oldest_seconds
  period              = 60
  evaluation_periods  = 1
  # SQS stops reporting a queue that nobody has used for six hours (Developer Guide, CloudWatch metrics).
  treat_missing_data = "notBreaching"
  alarm_actions      = values(var.notify)
  ok_actions         = values(var.notify)
  tags               = local.tags[each.value.queue]
}

# What is visible, not what was sent: a message that SQS moves by itself is not counted as sent.
resource "aws_cloudwatch_metric_alarm" "dead" {
  for_each = { for name, queue in local.queues : name => queue if queue.alarm.dead > 0 }

  alarm_name          = "${each.value.names.dead}-not-empty"
  alarm_description   = "Tasks of ${each.key} were given up: cloudq dlq ls."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = each.value.names.dead }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.alarm.dead
  period              = 60
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = values(var.notify)
  ok_actions          = values(var.notify)
  tags                = local.tags[each.key]
}
