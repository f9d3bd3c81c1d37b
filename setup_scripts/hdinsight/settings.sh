# shellcheck shell=bash disable=SC2034
# Settings of the scripts in this folder. Put no secrets here. A value from the environment overrides the value below:
#   cluster=landcover7 setup_scripts/hdinsight/create_cluster.sh

# Names. Storage account and cluster names are unique in all of Azure: choose your own.
group=${group:-landcover}
location=${location:-eastus}
storage=${storage:-landcovertiles}
container=${container:-tutorial}
identity=${identity:-landcover-cluster}
cluster=${cluster:-landcover-spark}
ssh_user=${ssh_user:-sshuser}
ssh_public_key=${ssh_public_key:-$HOME/.ssh/id_rsa.pub}
# The account that HDInsight's Jupyter runs as on the head nodes.
jupyter_user=${jupyter_user:-spark}
# The public https address of script_action.sh at a tagged commit. HDInsight fetches it without credentials, so it
# cannot be in the storage account below, which has no keys.
script_uri=${script_uri:-}

# Machines. Two head nodes and three ZooKeeper nodes come with every cluster.
head_size=${head_size:-Standard_E8ads_v5}
worker_size=${worker_size:-Standard_E8ads_v5}
zookeeper_size=${zookeeper_size:-Standard_D4ads_v5}
workers=${workers:-4}
# Autoscale by load keeps the number of workers between these limits.
least_workers=${least_workers:-3}
most_workers=${most_workers:-10}

# Prices of one machine for an hour, in US cents, with HDInsight's surcharge: rough list prices, pay as you go. Look
# yours up: azure.microsoft.com/pricing/details/hdinsight.
head_cents=${head_cents:-68}
worker_cents=${worker_cents:-68}
zookeeper_cents=${zookeeper_cents:-27}
# Price of one gigabyte of storage for a month, in US cents.
storage_cents=${storage_cents:-2}
