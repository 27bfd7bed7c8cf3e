"""A shop as Django makes it: users, sessions in the database, carts with foreign keys, a counter. Unchanged for Ripen: only the port in DATABASE_URL differs.

Usage: django_shop.py prepare | run ROUNDS
"""

import os
import sys
from urllib.parse import urlparse

import django
from django.conf import settings

url = urlparse(os.environ["DATABASE_URL"])
settings.configure(
    SECRET_KEY="of a test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.lstrip("/"),
            "USER": url.username,
            "HOST": url.hostname,
            "PORT": url.port,
            "CONN_MAX_AGE": None,
            "ATOMIC_REQUESTS": True,
        }
    },
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.contrib.auth.middleware.AuthenticationMiddleware"],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import authenticate, login  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.db.models import F  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import path  # noqa: E402


class Product(models.Model):
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=10, decimal_places=2)
    views = models.IntegerField(default=0)

    class Meta:
        app_label = "shop"


class Cart(models.Model):
    owner = models.OneToOneField(User, models.CASCADE, primary_key=True)
    items = models.IntegerField(default=0)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "shop"


class Item(models.Model):
    cart = models.ForeignKey(Cart, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)
    quantity = models.IntegerField(default=1)

    class Meta:
        app_label = "shop"


MODELS = [Product, Cart, Item]


def sign_in(request, number):
    user = authenticate(request, username=f"user{number}", password="secret")
    login(request, user)
    return HttpResponse("in")


def product(request, number):
    found = Product.objects.get(pk=number)
    Product.objects.filter(pk=number).update(views=F("views") + 1)
    return HttpResponse(found.name)


def put(request, number):
    cart = Cart.objects.get(pk=request.user.pk)
    Item.objects.create(cart=cart, product=Product.objects.get(pk=number))
    cart.items += 1
    cart.save()
    request.session["last"] = number
    return HttpResponse(str(cart.items))


def cart(request):
    items = list(Item.objects.filter(cart_id=request.user.pk))
    products = Product.objects.in_bulk([item.product_id for item in items])
    return HttpResponse(" ".join(f"{item.quantity}x{products[item.product_id].name}" for item in items))


def empty(request):
    for item in Item.objects.filter(cart_id=request.user.pk):
        item.delete()
    Cart.objects.filter(pk=request.user.pk).update(items=0)
    return HttpResponse("empty")


urlpatterns = [
    path("in/<int:number>", sign_in),
    path("product/<int:number>", product),
    path("put/<int:number>", put),
    path("cart", cart),
    path("empty", empty),
]


def prepare():
    call_command("migrate", verbosity=0)
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    Product.objects.bulk_create(Product(name=f"p{n}", price=n) for n in range(1, 51))
    for number in range(4):
        user = User.objects.create_user(f"user{number}", password="secret")
        Cart.objects.create(owner=user)


def run(rounds):
    clients = [Client() for _ in range(4)]
    for number, client in enumerate(clients):
        client.get(f"/in/{number}")
    for turn in range(rounds):
        for number, client in enumerate(clients):
            wanted = [(turn * 7 + number * 3 + step) % 50 + 1 for step in range(3)]
            for one in wanted:
                client.get(f"/product/{one}")
            client.get(f"/put/{wanted[0]}")
            client.get(f"/put/{wanted[1]}")
            shown = client.get("/cart").content.decode()
            assert shown.split() == [f"1xp{wanted[0]}", f"1xp{wanted[1]}"] or sorted(shown.split()) == sorted(
                [f"1xp{wanted[0]}", f"1xp{wanted[1]}"]
            ), shown
            client.get("/empty")
            assert client.get("/cart").content == b""
    print(Product.objects.aggregate(models.Sum("views"))["views__sum"], Item.objects.count(), Cart.objects.filter(items=0).count())


if sys.argv[1] == "prepare":
    prepare()
else:
    run(int(sys.argv[2]))
