"""As little as a project of Django needs."""

SECRET_KEY = "of an example"  # noqa: S105  nothing is signed with it
INSTALLED_APPS = ["django_tasks", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TASKS = {"default": {"BACKEND": "cloudq_backend.CloudQBackend", "QUEUES": ["default"]}}
